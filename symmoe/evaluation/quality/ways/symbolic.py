"""Symbolic-MoE as published (arXiv 2503.05641): its recruiting rule, and one aggregator for everything; or a vote."""

from __future__ import annotations

import time
from dataclasses import replace

from symmoe.build import build_recruiter
from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.spent import Answered, Spent
from symmoe.evaluation.quality.synthesis import synthesise
from symmoe.evaluation.quality.voting import plurality
from symmoe.types import Candidate


class SymbolicMoe:
    """k draws with replacement by the paper's rule on the pool's records, then always the aggregator.

    Skills are named by the pool's tagger, as for symmoe: the paper's annotator would cost calls of its own.
    """

    def answer(self, contest: Contest) -> Answered:
        """k + 1 calls for each question; the seconds include routing."""
        found, proposed = _proposed(contest)
        texts, combined = synthesise(contest, "symbolic_moe", contest.aggregator, found)
        return Answered(texts, proposed + combined)


class SymbolicVote:
    """The same draws with one vote each: what the published recruiting is worth where no aggregator spoils it."""

    def answer(self, contest: Contest) -> Answered:
        """k calls for each question; the seconds include routing."""
        found, spent = _proposed(contest)
        return Answered(plurality(contest.queries, found), spent)


def _proposed(contest: Contest) -> tuple[list[list[Candidate]], Spent]:
    """The candidates of the published recruiting, and what they cost."""
    began = time.perf_counter()
    pool = contest.assembly.pool
    published = pool.model_copy(update={"routing": pool.routing.model_copy(update={"recruiter": "published"})})
    recruiter = build_recruiter(published, contest.assembly.profiles())
    skills = contest.assembly.tagger.tag(contest.queries)
    recruitments = recruiter.recruit(contest.queries, skills, contest.k, contest.seed)
    routed = time.perf_counter() - began
    chosen = [[(a.expert, a.slot) for a in recruitment.assignments] for recruitment in recruitments]
    found, spent = contest.ask(contest.queries, chosen)
    return found, replace(spent, seconds=spent.seconds + routed)
