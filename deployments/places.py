"""Places at an engine that runs one expert alone: who comes first, who waits, and who is turned away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

from symmoe.planning.turns import Turns, Waiting

from .events import Asked, TurnedAway, TurnedAwayError

_LONGEST = 60.0
Result = TypeVar("Result")


class Places:
    """The `turns` of one expert whose turn it always is. Everything is done in one event loop."""

    def __init__(self, expert: str, turns: Turns, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns, self._clock = turns, clock
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._again: dict[str, asyncio.Future[None]] = {}
        self._limits: dict[str, asyncio.Timeout] = {}
        turns.loaded(expert, 0.0, clock())

    @property
    def running(self) -> int:
        """How many requests have a place."""
        return self._turns.running

    @property
    def waiting(self) -> dict[str, int]:
        """How many requests wait for one, by expert."""
        return dict(self._turns.waiting)

    async def taken(self, asked: Asked) -> float:
        """Wait for a place; after so many seconds there is one, to be given back in any case with `leave`.

        Raises `TurnedAwayError` where too many wait already, or the request's patience ends.
        """
        arrived = self._clock()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[asked.id] = place
        waiting = Waiting(asked.id, asked.expert, asked.key, arrived, arrived + asked.patience, asked.background)
        out = self._turns.arrive(waiting)
        if out is not None and not (refused := self._waiting.pop(out.id)).done():  # else it left in this very moment
            refused.set_exception(TurnedAwayError(self._full()))
        self._fill()
        await self._given(place, asked.patience)
        return self._clock() - arrived

    async def kept(self, asked: Asked, work: Callable[[int], Awaitable[Result]]) -> Result:
        """What `work`, told how often it was begun before, gives while a request in the background has its place.

        Where it gives way to others meanwhile, that is cancelled, and begun anew in another place.
        """
        for attempt in count():
            try:
                async with asyncio.timeout(None) as limit:
                    self._limits[asked.id] = limit
                    if asked.id in self._again:  # it gave way before it had begun
                        limit.reschedule(0.0)
                    return await work(attempt)
            except TimeoutError:
                if asked.id not in self._again:
                    raise
            finally:
                self._limits.pop(asked.id, None)
            await self._given(self._again.pop(asked.id), asked.patience)
        raise AssertionError

    async def _given(self, place: asyncio.Future[None], patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await place
        except TimeoutError:
            waited = f"no place was free within {patience:.0f} s"
            raise TurnedAwayError(TurnedAway(503, "waited_too_long", waited, 1.0)) from None

    def leave(self, ident: str) -> None:
        """A request is over, or not wanted any more; the next one begins."""
        self._waiting.pop(ident, None)
        self._again.pop(ident, None)
        self._turns.leave(ident)
        self._fill()

    @contextmanager
    def leaving(self, ident: str) -> Iterator[None]:
        """`leave` when the block ends."""
        try:
            yield
        finally:
            self.leave(ident)

    def _fill(self) -> None:
        for each in self._turns.give_way(self._clock()):
            loop = asyncio.get_running_loop()
            self._waiting[each.id] = self._again[each.id] = loop.create_future()
            if each.id in self._limits:
                self._limits[each.id].reschedule(loop.time())
        for each in self._turns.begin(self._clock()):
            place = self._waiting.pop(each.id, None)
            if place is None or place.done():
                self._turns.leave(each.id)
            else:
                place.set_result(None)

    def _full(self) -> TurnedAway:
        seconds = min(_LONGEST, max(1.0, self._turns.wait()))
        return TurnedAway(429, "overloaded", "too many requests are waiting", seconds)
