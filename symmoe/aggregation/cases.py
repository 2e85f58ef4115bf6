"""A query with all that is known when its answer is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from symmoe.aggregation.reading import failed
from symmoe.types import Answer, Candidate, Query, Refusal, Verdict


@dataclass(frozen=True, slots=True)
class Case:
    """One query, its candidates, the scorer's verdicts on them, and what a vote makes of both."""

    query: Query
    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    voted: Answer


def no_answer(query: Query, candidates: Sequence[Candidate]) -> Refusal | None:
    """Why there can be no answer, if every candidate failed or is empty; None if one is something."""
    if not all(map(failed, candidates)):
        return None
    said = ", ".join(f"{c.expert} ({'failed' if c.finish_reason == 'error' else 'empty'})" for c in candidates)
    message = f"none of its experts gave an answer: {said or 'none was asked'}"
    return Refusal(query.id, "no_answer", message, status=503, retry_after=1.0)
