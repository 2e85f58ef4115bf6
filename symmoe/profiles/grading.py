"""Experts on questions with known answers: who is right, how often, and how sure that is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.config import SamplingConfig
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.planning.grouping import plan
from symmoe.profiles.marking import is_right
from symmoe.protocols import Executor
from symmoe.types import (
    Assignment,
    Candidate,
    Load,
    Message,
    Plan,
    Query,
    Question,
    Recruitment,
    Refusal,
    Sampling,
    Trace,
)

Values = Sequence[float] | NDArray[np.float64]
RESAMPLES = 10_000
_ROWS = 500


def earned(questions: Sequence[Question], results: Sequence[Trace | Refusal]) -> list[float]:
    """1 for each question whose answer is right, 0 for a wrong answer and for a refusal."""
    return [
        float(isinstance(result, Trace) and is_right(result.answer.text, question))
        for question, result in zip(questions, results, strict=True)
    ]


def as_query(question: Question, sampling: SamplingConfig) -> Query:
    """The question as a user would ask it: nothing of its answer or scorer goes along."""
    options = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p)
    return Query(question.id, (Message("user", question.question),), options)


@dataclass(frozen=True, slots=True)
class Matrix:
    """What every expert wrote to question `i`, `texts[expert][i]`, and whether that is right, `right[expert][i]`.

    `spent` are completion tokens; `failed[expert][i]` says that nothing came of asking.
    """

    questions: tuple[Question, ...]
    right: Mapping[str, tuple[bool, ...]]
    seconds: float
    spent: Mapping[str, int]
    texts: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)

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
    watch: Watch = UNWATCHED,
    most_tokens: Mapping[str, int] | None = None,
    known: Sequence[Candidate] = (),
) -> Matrix:
    """Ask `experts` every question, each made ready once. `most_tokens` bounds what some experts write.

    `known` are candidates of the same questions and sampling: they are taken, not made again.
    """
    began = time.perf_counter()
    queries = [as_query(question, sampling) for question in questions]
    everyone = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in experts), {}) for q in queries]
    done = {Assignment(each.query_id, each.expert, 0): each for each in known if each.slot == 0}
    steps = plan(queries, everyone, models, done, most_tokens=most_tokens)
    found = {(each.expert, each.query_id): each for each in (*done.values(), *gathered(executor, steps, watch))}
    texts = {e: tuple(found[e, q.id].text for q in questions) for e in experts}
    failed = {e: tuple(found[e, q.id].finish_reason == "error" for q in questions) for e in experts}
    right = {e: tuple(is_right(t, q) for t, q in zip(texts[e], questions, strict=True)) for e in experts}
    spent = dict.fromkeys(experts, 0)
    for candidate in found.values():
        spent[candidate.expert] += 0 if candidate.shared else candidate.completion_tokens
    return Matrix(tuple(questions), right, time.perf_counter() - began, spent, texts, failed)


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


def interval95(resampled: NDArray[np.float64]) -> list[float]:
    """The central 95 % of bootstrap resamples, rounded to hundredths."""
    return [round(float(bound), 2) for bound in np.quantile(resampled, (0.025, 0.975))]


def estimate(values: Values, seed: int) -> dict[str, Any]:
    """The mean of `values` (0..1, a question each) in percent, and its 95 % interval."""
    return _told(100 * np.asarray(values, dtype=np.float64), seed)


def paired(first: Values, second: Values, seed: int) -> dict[str, Any]:
    """How much better `first` is than `second` on the same questions, in points, and the 95 % interval.

    Whole questions are resampled, so that what both find hard cancels out.
    """
    return _told(100 * (np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)), seed)


def _told(values: NDArray[np.float64], seed: int) -> dict[str, Any]:
    return {"points": round(float(values.mean()), 2), "ci95": interval95(_means(values, seed))}


def _means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The means of `RESAMPLES` resamples; in blocks, since ten thousand questions would else take gigabytes."""
    rng = np.random.default_rng(seed)
    shapes = [min(_ROWS, RESAMPLES - begin) for begin in range(0, RESAMPLES, _ROWS)]
    return np.concatenate([values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1) for rows in shapes])
