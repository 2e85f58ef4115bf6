"""Self-MoA (arXiv 2502.00674): the best expert proposes several times, and aggregates its own proposals."""

from __future__ import annotations

from dataclasses import dataclass

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.records import by_record
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.quality.synthesis import synthesise


@dataclass(frozen=True, slots=True)
class SelfMixture:
    """`samples` draws of the best single expert."""

    samples: int

    def answer(self, contest: Contest) -> Answered:
        """All draws and one more call for each question, all to one expert."""
        expert = by_record(contest.assembly.profiles())[0]
        draws = [(expert, slot) for slot in range(self.samples)]
        found, proposed = contest.ask(contest.queries, [draws] * len(contest.queries))
        texts, combined = synthesise(contest, "self_moa", expert, found)
        return Answered(texts, proposed + combined)
