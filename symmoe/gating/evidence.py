"""Weighing candidates by the record of the experts that gave them."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.protocols import Gate
from symmoe.types import Candidate, Query, Recruitment, Verdict


def weigh(
    gate: Gate,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[Candidate]],
    recruitments: Sequence[Recruitment],
) -> list[list[Verdict]]:
    """The stage: a verdict on every candidate of every query."""
    return [gate.weigh(q, c, r) for q, c, r in zip(queries, candidates, recruitments, strict=True)]


class EvidenceGate:
    """A candidate weighs what its expert's record on the query's skills weighed when it was recruited."""

    def weigh(self, query: Query, candidates: Sequence[Candidate], recruitment: Recruitment) -> list[Verdict]:
        """One verdict per candidate, in order. Empty and failed generations weigh nothing."""
        return [
            Verdict(c.expert, c.slot, recruitment.shares.get(c.expert, 0.0) if _is_answer(c) else 0.0)
            for c in candidates
        ]


def _is_answer(candidate: Candidate) -> bool:
    return bool(candidate.text) and candidate.finish_reason != "error"
