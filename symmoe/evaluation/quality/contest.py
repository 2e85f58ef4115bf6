"""What all ways of answering share: the questions, the settings, and one executor for their calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from symmoe.build import Assembly
from symmoe.config import SamplingConfig
from symmoe.evaluation.matrix import gathered
from symmoe.evaluation.quality.records import fixed_aggregator
from symmoe.evaluation.quality.spent import Answered, Spent, spent_on
from symmoe.evaluation.scoring import as_query
from symmoe.pipeline import Watch
from symmoe.planning.grouping import plan
from symmoe.types import Assignment, Candidate, Message, Query, Question, Recruitment

Draw = tuple[str, int]
"""An expert and which of its draws for the question."""


class Contest:
    """Questions as users would ask them, every way under the same `sampling`, `k` and seed.

    What two ways ask alike is generated once and charged to both, with the seconds that it took.
    """

    def __init__(
        self,
        assembly: Assembly,
        questions: Sequence[Question],
        sampling: SamplingConfig,
        k: int,
        seed: int,
        watch: Watch = Watch(),  # noqa: B008  (frozen)
        aggregator: str | None = None,
    ) -> None:
        self.assembly, self.questions, self.sampling = assembly, tuple(questions), sampling
        self.k, self.seed, self.watch = k, seed, watch
        self.queries = tuple(as_query(question, sampling) for question in questions)
        self._aggregator = aggregator
        self._asked: dict[tuple[tuple[Query, ...], tuple[tuple[Draw, ...], ...]], tuple[list[Candidate], Spent]] = {}

    @property
    def aggregator(self) -> str:
        """The one expert that aggregates for every way that needs one: the one named, else the best on record."""
        return self._aggregator or fixed_aggregator(self.assembly.profiles())

    def ask(self, queries: Sequence[Query], chosen: Sequence[Sequence[Draw]]) -> tuple[list[list[Candidate]], Spent]:
        """The candidates of each query, in the order of its draws. Grouped: every expert is made ready once."""
        key = (tuple(queries), tuple(tuple(draws) for draws in chosen))
        if key not in self._asked:
            self._asked[key] = self._run(*key)
        candidates, spent = self._asked[key]
        found = iter(candidates)
        return [[next(found) for _ in draws] for draws in chosen], spent

    def ask_all(self, experts: Sequence[str]) -> tuple[list[list[Candidate]], Spent]:
        """Every question once to each of these experts."""
        return self.ask(self.queries, [[(expert, 0) for expert in experts]] * len(self.queries))

    def warm_up(self) -> float:
        """Make every expert ready once, so that no way pays for another's first loads; seconds."""
        began = time.perf_counter()
        hello = Query("warm-up", (Message("user", "Hello"),), replace(self.queries[0].sampling, max_tokens=1))
        everyone = tuple(Assignment(hello.id, name, 0) for name in self.assembly.pool.names)
        gathered(
            self.assembly.executor,
            plan([hello], [Recruitment(hello.id, everyone, {})], self.assembly.models),
            self.watch,
        )
        return time.perf_counter() - began

    def _run(self, queries: tuple[Query, ...], chosen: tuple[tuple[Draw, ...], ...]) -> tuple[list[Candidate], Spent]:
        began = time.perf_counter()
        assigned = [[Assignment(q.id, *draw) for draw in draws] for q, draws in zip(queries, chosen, strict=True)]
        alone = [Recruitment(q.id, tuple(mine), {}) for q, mine in zip(queries, assigned, strict=True)]
        steps = plan(queries, alone, self.assembly.models, seed=self.seed)
        found = {
            Assignment(candidate.query_id, candidate.expert, candidate.slot): candidate
            for candidate in gathered(self.assembly.executor, steps, self.watch)
        }
        in_order = [found[assignment] for mine in assigned for assignment in mine]
        return in_order, spent_on(found.values(), time.perf_counter() - began)


class Way(Protocol):
    """One way of answering all questions of a contest."""

    def answer(self, contest: Contest) -> Answered:
        """The answers, in the order of the questions, and what they cost as if no other way had run."""
        ...
