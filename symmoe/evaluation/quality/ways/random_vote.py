"""Random experts and a vote: what recruiting must beat."""

from __future__ import annotations

from random import Random

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.quality.voting import plurality


class RandomVote:
    """k distinct experts drawn for each question, one vote each."""

    def answer(self, contest: Contest) -> Answered:
        """k calls for each question, fewer in a pool of fewer."""
        rng, names = Random(contest.seed), contest.assembly.pool.names
        k = min(contest.k, len(names))
        found, spent = contest.ask(contest.queries, [[(e, 0) for e in rng.sample(names, k)] for _ in contest.queries])
        return Answered(plurality(contest.queries, found), spent)
