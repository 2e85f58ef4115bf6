"""symmoe itself, as the pool file configures it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.spent import Answered, spent_on
from symmoe.pipeline import answer
from symmoe.policy import policy_for
from symmoe.types import Candidate, Trace


class Symmoe:
    """The pipeline that serves questions; a refused question has the answer `""`."""

    def answer(self, contest: Contest) -> Answered:
        """Charged for everything generated, an aggregator's words too, and for the seconds of the whole pipeline."""
        generated: list[Candidate] = []

        def seen(candidates: Sequence[Candidate]) -> None:
            generated.extend(candidates)
            contest.watch.candidates(candidates)

        began = time.perf_counter()
        watch = replace(contest.watch, candidates=seen)
        policy = policy_for(contest.assembly.pool, k=contest.k)
        outcome = answer(contest.assembly.parts(), contest.queries, policy, contest.seed, watch=watch)
        seconds = time.perf_counter() - began
        texts = tuple(result.answer.text if isinstance(result, Trace) else "" for result in outcome.results)
        return Answered(texts, spent_on(generated, seconds))
