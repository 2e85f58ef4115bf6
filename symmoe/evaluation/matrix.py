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
from symmoe.types import Assignment, Candidate, Load, Plan, Question, Recruitment


@dataclass(frozen=True, slots=True)
class Matrix:
    """What every expert wrote to question `i`, `texts[expert][i]`, and whether that is right, `right[expert][i]`.

    `spent` are completion tokens.
    """

    questions: tuple[Question, ...]
    right: Mapping[str, tuple[bool, ...]]
    seconds: float
    spent: Mapping[str, int]
    texts: Mapping[str, tuple[str, ...]]

    @property
    def tokens(self) -> int:
        """The completion tokens of all experts together."""
        return sum(self.spent.values())

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
    found = {(candidate.expert, candidate.query_id): candidate for candidate in gathered(executor, steps, watch)}
    texts = {e: tuple(found[e, q.id].text for q in questions) for e in experts}
    right = {e: tuple(is_right(t, q) for t, q in zip(texts[e], questions, strict=True)) for e in experts}
    spent = dict.fromkeys(experts, 0)
    for candidate in found.values():
        spent[candidate.expert] += 0 if candidate.shared else candidate.completion_tokens
    return Matrix(tuple(questions), right, time.perf_counter() - began, spent, texts)


def gathered(executor: Executor, steps: Plan, watch: Watch) -> list[Candidate]:
    """Every candidate of a plan, run with a watch."""
    candidates: list[Candidate] = []
    watch.planned(steps)
    for event in executor.run(steps):
        if isinstance(event, Load):
            watch.loaded(event)
            continue
        watch.candidates(event)
        candidates += event
    return candidates
