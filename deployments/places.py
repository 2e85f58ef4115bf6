"""Places at an engine that runs one expert alone: who comes first, who waits, and who is turned away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from symmoe.planning.turns import Turns, Waiting

from .events import Asked, TurnedAway, TurnedAwayError

_LONGEST = 60.0


class Places:
    """The `turns` of one expert whose turn it always is. Everything is done in one event loop."""

    def __init__(self, expert: str, turns: Turns, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns, self._clock = turns, clock
        self._waiting: dict[str, asyncio.Future[None]] = {}
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
        if out is not None:
            self._waiting.pop(out.id).set_exception(TurnedAwayError(self._full()))
        self._fill()
        try:
            async with asyncio.timeout(asked.patience):
                await place
        except TimeoutError:
            waited = f"no place was free within {self._clock() - arrived:.0f} s"
            raise TurnedAwayError(TurnedAway(503, "waited_too_long", waited, 1.0)) from None
        return self._clock() - arrived

    def leave(self, ident: str) -> None:
        """A request is over, or not wanted any more; the next one begins."""
        self._waiting.pop(ident, None)
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
        for each in self._turns.begin(self._clock()):
            place = self._waiting.pop(each.id, None)
            if place is None or place.done():
                self._turns.leave(each.id)
            else:
                place.set_result(None)

    def _full(self) -> TurnedAway:
        seconds = min(_LONGEST, max(1.0, self._turns.wait()))
        return TurnedAway(429, "overloaded", "too many requests are waiting", seconds)
