"""Symbolic-MoE as published (arXiv 2503.05641): its recruiting rule, and one aggregator for everything."""

from __future__ import annotations

import time
from dataclasses import replace

from symmoe.build import build_recruiter
from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.quality.synthesis import synthesise


class SymbolicMoe:
    """k draws with replacement by the paper's rule on the pool's records, then always the aggregator.

    Skills are named by the pool's tagger, as for symmoe: the paper's annotator would cost calls of its own.
    """

    def answer(self, contest: Contest) -> Answered:
        """k + 1 calls for each question; the seconds include routing."""
        began = time.perf_counter()
        pool = contest.assembly.pool
        published = pool.model_copy(update={"routing": pool.routing.model_copy(update={"recruiter": "published"})})
        recruiter = build_recruiter(published, contest.assembly.profiles())
        skills = contest.assembly.tagger.tag(contest.queries)
        recruitments = recruiter.recruit(contest.queries, skills, contest.k, contest.seed)
        routed = time.perf_counter() - began
        chosen = [[(a.expert, a.slot) for a in recruitment.assignments] for recruitment in recruitments]
        found, proposed = contest.ask(contest.queries, chosen)
        texts, combined = synthesise(contest, "symbolic_moe", contest.aggregator, found)
        spent = proposed + combined
        return Answered(texts, replace(spent, seconds=spent.seconds + routed))
