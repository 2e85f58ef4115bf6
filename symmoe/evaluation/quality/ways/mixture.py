"""Mixture-of-Agents (arXiv 2406.04692) with two layers: proposers, then an aggregator that reads all of them."""

from __future__ import annotations

from dataclasses import dataclass

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.records import by_record
from symmoe.evaluation.quality.spent import Answered
from symmoe.evaluation.quality.synthesis import synthesise


@dataclass(frozen=True, slots=True)
class MixtureOfAgents:
    """`proposers` experts of the best record, or all of the pool for None."""

    proposers: int | None = None

    def answer(self, contest: Contest) -> Answered:
        """A call to every proposer, then one to the aggregator, for each question."""
        top = set(by_record(contest.assembly.profiles())[: self.proposers])
        found, proposed = contest.ask_all([name for name in contest.assembly.pool.names if name in top])
        texts, combined = synthesise(contest, "moa", contest.aggregator, found)
        return Answered(texts, proposed + combined)
