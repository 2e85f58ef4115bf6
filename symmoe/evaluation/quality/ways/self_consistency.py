"""Self-consistency: a plain vote over many draws of one expert (arXiv 2203.11171)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.records import by_record
from symmoe.evaluation.quality.spent import Answered, Spent
from symmoe.evaluation.quality.voting import plurality
from symmoe.types import Candidate

MOST_DRAWS = 64
"""Of one question. More change no vote that these left open for good."""


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """As many draws of the best single expert as `budget` completion tokens pay for, spread evenly over the questions.

    Every question has one draw, whatever it costs. At temperature 0 that is all: further draws would be equal.
    """

    budget: int

    def answer(self, contest: Contest) -> Answered:
        """Draw in rounds, each as large as the mean length so far says that the rest of the budget allows."""
        expert = by_record(contest.assembly.profiles())[0]
        drawn: list[list[Candidate]] = [[] for _ in contest.queries]
        order = list(range(len(drawn)))
        Random(contest.seed).shuffle(order)
        spent = _round(contest, expert, order, drawn)
        while contest.sampling.temperature > 0:
            fits = min(self._affordable(spent), len(order))
            turn = [i for i in sorted(order, key=lambda i: len(drawn[i]))[:fits] if len(drawn[i]) < MOST_DRAWS]
            if not turn:
                break
            spent += _round(contest, expert, turn, drawn)
        return Answered(plurality(contest.queries, drawn), spent)

    def _affordable(self, spent: Spent) -> int:
        if not spent.completion_tokens:
            return 0
        return max(0, (self.budget - spent.completion_tokens) * spent.calls // spent.completion_tokens)


def _round(contest: Contest, expert: str, turn: list[int], drawn: list[list[Candidate]]) -> Spent:
    """One more draw for each question of this turn, added to `drawn`."""
    found, spent = contest.ask([contest.queries[i] for i in turn], [[(expert, len(drawn[i]))] for i in turn])
    for i, mine in zip(turn, found, strict=True):
        drawn[i] += mine
    return spent
