"""All experts and a vote."""

from __future__ import annotations

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.quality.voting import plurality


class AllVote:
    """Every expert of the pool, one vote each."""

    def answer(self, contest: Contest) -> Answered:
        """A call to every expert for each question."""
        found, spent = contest.ask_all(contest.assembly.pool.names)
        return Answered(plurality(contest.queries, found), spent)
