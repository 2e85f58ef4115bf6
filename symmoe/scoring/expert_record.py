"""Weighing candidates by the record of the experts that gave them."""

from __future__ import annotations

from collections.abc import Sequence

from symmoe.protocols import Scorer
from symmoe.questions.options import options_of, support
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
    """A candidate weighs the log-odds that its expert is right about this query, against one of the other options.

    That is the best weight of independent voters (Nitzan and Paroush 1982, for more than two options). Under a
    recruiter that cannot tell how likely an expert is right it weighs its share of the recruiter's mass.
    """

    def weigh(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        recruitments: Sequence[Recruitment],
    ) -> list[list[Verdict]]:
        """One verdict per candidate of each query, in order. Empty and failed generations weigh nothing."""
        rows = zip(queries, candidates, recruitments, strict=True)
        return [weigh_by_records(query, row, recruitment) for query, row, recruitment in rows]


def weigh_by_records(query: Query, candidates: Sequence[Candidate], recruitment: Recruitment) -> list[Verdict]:
    """What each candidate weighs by its expert's record; nothing where it is no answer."""
    return [
        Verdict(c.expert, c.slot, weight_of(query.text, recruitment, c.expert) if is_answer(c) else 0.0)
        for c in candidates
    ]


def weight_of(question: str, recruitment: Recruitment, expert: str) -> float:
    """What an answer of this expert weighs by its record."""
    if recruitment.accuracies:
        return support(recruitment.accuracies.get(expert, 0.0), options_of(question))
    return recruitment.shares.get(expert, 0.0)


def is_answer(candidate: Candidate) -> bool:
    """Whether a generation gave anything to weigh."""
    return bool(candidate.text) and candidate.finish_reason != "error"
