"""Candidates to choose among: questions, what was written to them, and how the experts stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from symmoe.evaluation.scoring import is_right
from symmoe.types import Assignment, Candidate, Query, Question, Recruitment


def assignment_of(candidate: Candidate) -> Assignment:
    """The assignment that a candidate answers."""
    return Assignment(candidate.query_id, candidate.expert, candidate.slot)


@dataclass(frozen=True, slots=True)
class Field:
    """Questions, the queries that they were asked as, their candidates and their recruitments, a place for each.

    The recruitments say how every expert stands for a question, whoever was asked.
    """

    questions: tuple[Question, ...]
    queries: tuple[Query, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    recruitments: tuple[Recruitment, ...]

    def keep(self, wanted: Callable[[Candidate, Recruitment], bool]) -> Field:
        """The same questions with fewer candidates."""
        rows = zip(self.candidates, self.recruitments, strict=True)
        return replace(self, candidates=tuple(tuple(c for c in row if wanted(c, r)) for row, r in rows))

    def only(self, places: Sequence[int]) -> Field:
        """The questions at some places."""
        return Field(
            tuple(self.questions[p] for p in places),
            tuple(self.queries[p] for p in places),
            tuple(self.candidates[p] for p in places),
            tuple(self.recruitments[p] for p in places),
        )

    def right(self) -> list[list[bool]]:
        """Whether each candidate is right."""
        return [
            [is_right(candidate.text, question) for candidate in row]
            for question, row in zip(self.questions, self.candidates, strict=True)
        ]
