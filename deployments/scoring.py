"""Weighs the candidates of many requests together, in this process or on reward replicas.

A reward replica holds the pool's reward model in a process of its own. No request fails if scoring does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from symmoe.answering import Weighed
from symmoe.config import Pool
from symmoe.protocols import Scorer
from symmoe.scoring.weighing import weigh, weigh_by_records
from symmoe.types import Assignment, Candidate, Message, Query, Recruitment, Reward, Sampling, Verdict

from .microbatch import MicroBatch
from .settings import Settings
from .worker import Build

_ANY = Query("warm", (Message("user", "What is 1 + 1?"),), Sampling(1))


class RewardExpert:
    """Weighs cases with a scorer, a batch at a time. Healthy while no batch takes longer than `stall` seconds."""

    def __init__(self, scorer: Scorer, stall: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._scorer, self._stall, self._clock = scorer, stall, clock
        self._thread = ThreadPoolExecutor(1, "reward")
        self._began: float | None = None
        weigh_all(scorer, [_warming()])  # the model is read now, not when the first request waits for it

    async def weigh(self, cases: Sequence[Case]) -> list[tuple[Verdict, ...] | str]:
        """The verdicts on each case, or why the model failed on it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._weigh, cases)

    def check_health(self) -> None:
        """Raise `RuntimeError` if the model hangs."""
        began = self._began
        if began is not None and self._clock() - began > self._stall:
            raise RuntimeError("the reward model hangs")

    def _weigh(self, cases: Sequence[Case]) -> list[tuple[Verdict, ...] | str]:
        """One case that the model cannot bear spoils nobody else's."""
        self._began = self._clock()
        try:
            return [*weigh_all(self._scorer, cases)]
        except Exception as error:
            if len(cases) == 1:
                return [f"the reward model failed: {type(error).__name__}"]
            return [verdicts for case in cases for verdicts in self._weigh([case])]
        finally:
            self._began = None


class RewardReplica(RewardExpert):
    """A reward expert made of picklable arguments. If the model hangs, its process ends; Ray Serve starts another."""

    def __init__(self, pool: Pool, settings: Settings, build: Build) -> None:
        super().__init__(build(pool).scorer, settings.stall)

    def check_health(self) -> None:
        """End the process if the model hangs; a thread in native code cannot be ended otherwise."""
        try:
            super().check_health()
        except RuntimeError:
            os._exit(1)


def _warming() -> Case:
    candidates = tuple(Candidate(_ANY.id, "a", slot, str(slot), "stop", 1, 1, "resident") for slot in (1, 2))
    return _ANY, candidates, Recruitment(_ANY.id, tuple(Assignment(_ANY.id, "a", slot) for slot in (1, 2)), {"a": 1.0})


Case = tuple[Query, tuple[Candidate, ...], Recruitment]
"""One query's candidates, and who was recruited for it."""
_MOST = 32
_REST = 5.0
"""Seconds for which replicas are left alone after they did not answer."""


class Scoring(Protocol):
    """Weighs one query's candidates."""

    async def weigh(self, query: Query, found: Sequence[Candidate], recruitment: Recruitment) -> Weighed:
        """The verdicts on a query's candidates, by their experts' records if there are no better ones."""
        ...


def by_records(case: Case, trouble: str) -> Weighed:
    """The verdicts on a case by the records alone."""
    verdicts = weigh_by_records(*case)
    return Weighed(tuple(replace(verdict, reward=Reward(None, note=trouble)) for verdict in verdicts), trouble)


def weigh_all(scorer: Scorer, cases: Sequence[Case]) -> list[tuple[Verdict, ...]]:
    """A scorer's verdicts on every case."""
    queries, candidates, recruitments = zip(*cases, strict=True)
    return [tuple(row) for row in weigh(scorer, queries, candidates, recruitments)]


class LocalScorer:
    """A scorer in this process. Cases that arrive together are weighed together, in a thread."""

    def __init__(self, scorer: Scorer) -> None:
        self._batch: MicroBatch[Case, tuple[Verdict, ...]] = MicroBatch(lambda cases: weigh_all(scorer, cases), _MOST)

    async def weigh(self, query: Query, found: Sequence[Candidate], recruitment: Recruitment) -> Weighed:
        """The scorer's verdicts."""
        case = (query, tuple(found), recruitment)
        try:
            return Weighed(await self._batch(case))
        except Exception as error:  # a reward model's parts raise what they like
            return by_records(case, f"the reward model failed: {type(error).__name__}")


@dataclass(slots=True, eq=False)
class _Waiting:
    case: Case
    weighed: asyncio.Future[Weighed]


class ReplicaScorer:
    """Reward replicas behind a Ray Serve `handle`, asked in batches of up to `most` cases that arrived meanwhile.

    At most `at_once` batches are under way: as many as there are replicas. A batch not answered within `seconds` is
    decided by the experts' records, and so is everything in the next five seconds.
    """

    def __init__(
        self,
        handle: Any,
        seconds: float,
        at_once: int = 1,
        most: int = _MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle, self._seconds, self._at_once, self._most, self._clock = handle, seconds, at_once, most, clock
        self._waiting: list[_Waiting] = []
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._until, self._why = clock(), ""

    async def weigh(self, query: Query, found: Sequence[Candidate], recruitment: Recruitment) -> Weighed:
        """A replica's verdicts."""
        entry = _Waiting((query, tuple(found), recruitment), asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._under_way < self._at_once:
            self._under_way += 1
            task = asyncio.create_task(self._go_on())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await entry.weighed

    async def _go_on(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._run([each for each in batch if not each.weighed.done()])
        finally:
            self._under_way -= 1

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        weighed = await self._weighed([entry.case for entry in batch]) if batch else []
        for entry, result in zip(batch, weighed, strict=True):
            if not entry.weighed.done():
                entry.weighed.set_result(result)

    async def _weighed(self, cases: Sequence[Case]) -> list[Weighed]:
        if self._clock() < self._until:
            return [by_records(case, self._why) for case in cases]
        response = None
        try:
            response = self._handle.weigh.remote(cases)
            async with asyncio.timeout(self._seconds):
                results: list[tuple[Verdict, ...] | str] = await response
            return [_read(case, result) for case, result in zip(cases, results, strict=True)]
        except Exception as error:  # Ray's errors have no base of their own that could be named without importing it
            if response is not None:
                response.cancel()
            self._until = self._clock() + _REST
            self._why = f"the reward replica did not answer: {type(error).__name__}"
            return [by_records(case, self._why) for case in cases]


def _read(case: Case, result: tuple[Verdict, ...] | str) -> Weighed:
    if isinstance(result, str):
        return by_records(case, result)
    if len(result) != len(case[1]):
        return by_records(case, "the reward replica left out candidates")
    return Weighed(result)
