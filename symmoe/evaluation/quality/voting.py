"""The plain vote: one candidate, one vote."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.aggregation.vote import WeightedVote
from symmoe.types import Candidate, Query, Verdict


def plurality(queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]]) -> tuple[str, ...]:
    """The answer that most candidates of each query give; ties go to the one asked first."""
    vote = WeightedVote()
    verdicts = [[Verdict(c.expert, c.slot, float(c.finish_reason != "error")) for c in each] for each in candidates]
    return tuple(vote.aggregate(q, c, v).text for q, c, v in zip(queries, candidates, verdicts, strict=True))
