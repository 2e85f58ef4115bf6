"""What every expert of a pool writes to validation questions, kept on disk as it comes, and settings cut from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from symmoe.build import Assembly
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.planning.grouping import plan
from symmoe.profiles.grading import as_query, gathered
from symmoe.profiles.marking import is_right
from symmoe.routing.tagging import tag
from symmoe.types import Assignment, Candidate, Query, Question, Recruitment

DRAWS = 3
"""How many draws of one expert stand against each other."""
Wanted = Callable[[Candidate, Recruitment], bool]


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


def best(count: int, candidate: Candidate, recruitment: Recruitment) -> bool:
    """Whether a candidate's expert is among those that stand best for the question."""
    return candidate.expert in list(recruitment.shares)[:count]


SETTINGS: dict[str, Wanted] = {
    "everyone": lambda c, r: c.slot == 0,
    "three_experts": lambda c, r: c.slot == 0 and best(3, c, r),
    "two_experts_redrawn": lambda c, r: c.slot > 0 and best(2, c, r),
    "one_expert_redrawn": lambda c, r: 0 < c.slot <= DRAWS and best(1, c, r),
    "recruited": lambda c, r: c.slot == 0 and c.expert in {a.expert for a in r.assignments},
}
"""Every expert once; the three that stand best, once; draws of the best two or of the best; symmoe's own recruiting."""


def cut(field: Field) -> dict[str, Field]:
    """The settings for which a field holds candidates to every question."""
    fields = {name: field.keep(wanted) for name, wanted in SETTINGS.items()}
    return {name: each for name, each in fields.items() if all(each.candidates)}


@dataclass(frozen=True, slots=True)
class Drawing:
    """How often experts answer.

    Each answers once under the pool's sampling, which is slot 0. The `experts` that stand best for a question answer
    `draws` times more at `temperature`.
    """

    draws: int = 4
    experts: int = 2
    temperature: float = 1.0
    seed: int = 0


def gather(
    assembly: Assembly,
    questions: Sequence[Question],
    drawing: Drawing,
    path: Path | None = None,
    watch: Watch = UNWATCHED,
) -> Field:
    """What experts answer: for each question every expert in the pool's order, then those that are asked again.

    With a `path`, answers are kept there as they come, and what stands there already is not asked for again. Raises
    `PoolError` for a pool without profiles.
    """
    names, asked = assembly.pool.names, [as_query(question, assembly.pool.sampling) for question in questions]
    warm = [replace(q, sampling=replace(q.sampling, temperature=drawing.temperature)) for q in asked]
    standing = assembly.recruiter.recruit(asked, tag(assembly.tagger, asked), assembly.pool.routing.k, drawing.seed)
    first = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in names), {}) for q in asked]
    again = [Recruitment(r.query_id, tuple(_redrawn(r, drawing)), {}) for r in standing]
    steps = plan(
        [*asked, *warm], [*first, *again], assembly.models, seed=drawing.seed, most_tokens=assembly.pool.most_tokens
    )
    known = {candidate.assignment: candidate for candidate in gathered(assembly.keeping(path), steps, watch)}
    rows = (
        tuple(known[assignment] for assignment in (*once.assignments, *more.assignments))
        for once, more in zip(first, again, strict=True)
    )
    return Field(tuple(questions), tuple(asked), tuple(rows), tuple(standing))


def _redrawn(recruitment: Recruitment, drawing: Drawing) -> Iterator[Assignment]:
    for expert in list(recruitment.shares)[: drawing.experts]:
        for slot in range(1, drawing.draws + 1):
            yield Assignment(recruitment.query_id, expert, slot)
