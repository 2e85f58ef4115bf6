"""Weighing the candidates of many requests together, in this process or on reward replicas; no request fails for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from symmoe.answering import Weighed
from symmoe.protocols import Scorer
from symmoe.scoring.expert_record import weigh, weigh_by_records
from symmoe.types import Candidate, Query, Recruitment, Reward, Verdict

from .microbatch import MicroBatch

Case = tuple[Query, tuple[Candidate, ...], Recruitment]
"""One query's candidates, and who was recruited for it."""
_MOST = 32
_REST = 5.0
"""Seconds for which replicas are left alone after they did not answer."""


class Scoring(Protocol):
    """Weighs one query's candidates."""

    async def weigh(self, query: Query, found: Sequence[Candidate], recruitment: Recruitment) -> Weighed:
        """Their verdicts, by their experts' records where there are no better ones."""
        ...


def by_records(case: Case, trouble: str) -> Weighed:
    """What the records alone make of a case."""
    verdicts = weigh_by_records(*case)
    return Weighed(tuple(replace(each, reward=Reward(None, note=trouble)) for each in verdicts), trouble)


def weigh_all(scorer: Scorer, cases: Sequence[Case]) -> list[tuple[Verdict, ...]]:
    """A scorer's verdicts on every case."""
    queries, found, recruitments = zip(*cases, strict=True)
    return [tuple(row) for row in weigh(scorer, queries, found, recruitments)]


class LocalScorer:
    """A scorer of this process. Cases that come together are weighed together, in a thread."""

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
    """Reward replicas behind a Ray Serve `handle`, asked with what came in meanwhile: `most` cases at a time.

    `at_once` batches are under way at most: as many as there are replicas. One that is not answered within `seconds`
    is decided by the experts' records, and so is what comes within the next five seconds.
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
        one = _Waiting((query, tuple(found), recruitment), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._under_way < self._at_once:
            self._under_way += 1
            task = asyncio.create_task(self._go_on())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await one.weighed

    async def _go_on(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._run([each for each in batch if not each.weighed.done()])
        finally:
            self._under_way -= 1

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        weighed = await self._weighed([each.case for each in batch]) if batch else []
        for each, result in zip(batch, weighed, strict=True):
            if not each.weighed.done():
                each.weighed.set_result(result)

    async def _weighed(self, cases: Sequence[Case]) -> list[Weighed]:
        if self._clock() < self._until:
            return [by_records(case, self._why) for case in cases]
        response = None
        try:
            response = self._handle.weigh.remote(cases)
            async with asyncio.timeout(self._seconds):
                given: list[tuple[Verdict, ...] | str] = await response
            return [_read(case, each) for case, each in zip(cases, given, strict=True)]
        except Exception as error:  # Ray's errors have no base of their own that could be named without importing it
            if response is not None:
                response.cancel()
            self._until = self._clock() + _REST
            self._why = f"the reward replica did not answer: {type(error).__name__}"
            return [by_records(case, self._why) for case in cases]


def _read(case: Case, given: tuple[Verdict, ...] | str) -> Weighed:
    if isinstance(given, str):
        return by_records(case, given)
    if len(given) != len(case[1]):
        return by_records(case, "the reward replica left out candidates")
    return Weighed(given)
