"""Weighing candidates by the record of the experts that gave them."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.protocols import Scorer
from symmoe.types import Candidate, Query, Recruitment, Verdict


def weigh(
    scorer: Scorer,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[Candidate]],
    recruitments: Sequence[Recruitment],
) -> list[list[Verdict]]:
    """The stage: a verdict on every candidate of every query."""
    return scorer.weigh(queries, candidates, recruitments)


class RecordScorer:
    """A candidate weighs what its expert's record on the query's skills weighed when it was recruited."""

    def weigh(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        recruitments: Sequence[Recruitment],
    ) -> list[list[Verdict]]:
        """One verdict per candidate of each query, in order. Empty and failed generations weigh nothing."""
        return [weigh_by_records(row, recruitment) for row, recruitment in zip(candidates, recruitments, strict=True)]


def weigh_by_records(candidates: Sequence[Candidate], recruitment: Recruitment) -> list[Verdict]:
    """What each candidate weighs by its expert's share of the recruiter's mass; nothing where it is no answer."""
    return [Verdict(c.expert, c.slot, weight_of(recruitment, c.expert) if is_answer(c) else 0.0) for c in candidates]


def weight_of(recruitment: Recruitment, expert: str) -> float:
    """What an answer of this expert weighs by its record."""
    return recruitment.shares.get(expert, 0.0)


def is_answer(candidate: Candidate) -> bool:
    """Whether a generation gave anything to weigh."""
    return bool(candidate.text) and candidate.finish_reason != "error"
