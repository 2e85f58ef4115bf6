"""Every expert on every question: the ground on which profiles and baselines stand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from symmoe.config import SamplingConfig
from symmoe.evaluation.scoring import as_query, is_right
from symmoe.pipeline import Watch
from symmoe.planning.grouping import plan
from symmoe.protocols import Executor
from symmoe.types import Assignment, Candidate, Load, Question, Recruitment


@dataclass(frozen=True, slots=True)
class Matrix:
    """`right[expert][i]` says whether the expert answered question `i` rightly."""

    questions: tuple[Question, ...]
    right: Mapping[str, tuple[bool, ...]]
    seconds: float
    tokens: int

    def accuracy(self, expert: str) -> float:
        """The fraction that one expert answered rightly."""
        return sum(self.right[expert]) / len(self.questions)

    @property
    def best_single(self) -> str:
        """The most accurate expert *on these questions*: a baseline chosen in hindsight, so the hardest to beat."""
        return max(self.right, key=self.accuracy)

    @property
    def any_right(self) -> tuple[bool, ...]:
        """Whether at least one expert was right, question by question: the oracle."""
        return tuple(any(column) for column in zip(*self.right.values(), strict=True))


def run_matrix(
    executor: Executor,
    experts: Sequence[str],
    models: Mapping[str, str],
    questions: Sequence[Question],
    sampling: SamplingConfig,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
) -> Matrix:
    """Ask `experts` every question, each made ready once."""
    began = time.perf_counter()
    queries = [as_query(question, sampling) for question in questions]
    everyone = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in experts), {}) for q in queries]
    steps = plan(queries, everyone, models)
    watch.planned(steps)
    found: dict[tuple[str, str], Candidate] = {}
    for event in executor.run(steps):
        if isinstance(event, Load):
            watch.loaded(event)
            continue
        found.update({(candidate.expert, candidate.query_id): candidate for candidate in event})
        watch.candidates(event)
    right = {e: tuple(is_right(found[e, q.id].text, q) for q in questions) for e in experts}
    tokens = sum(candidate.completion_tokens for candidate in found.values() if not candidate.shared)
    return Matrix(tuple(questions), right, time.perf_counter() - began, tokens)
