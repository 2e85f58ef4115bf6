"""Whose turn it is: how many lines are open at once, and of which keys; and what is done one at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from symmoe.limits import KEY_SHARE, LONGEST_KEY_PAUSE

_LOOK_SECONDS = 0.25
_ENDLESS = 1 << 62


@dataclass(eq=False, slots=True)
class Place:
    """The place of one open line, of so many `weight` bytes."""

    owner: str
    weight: int
    given: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Window:
    """Places for open lines, given in turn to the keys that wait, and to the batches of a key in turn.

    `room` says how many lines may be open now, `most` how many bytes they may weigh together. Some of both is kept for
    every key: one that has less than its share enters at once, and one with no line open may have one of any weight.
    """

    def __init__(self, room: Callable[[], int], most: int = _ENDLESS) -> None:
        self._room, self._most = room, most
        self._open: Counter[str] = Counter()
        self._weight: Counter[str] = Counter()
        self._waiting: dict[str, list[Place]] = {}  # keys in the order of their turns, each with its batches in theirs
        self._paused: dict[str, float] = {}
        self._look: asyncio.TimerHandle | None = None

    async def enter(self, owner: str, weight: int = 0) -> Place:
        """Wait until one more line of a key may be open; `leave` its place again. A batch waits for one at a time."""
        place = Place(owner, weight)
        self._waiting.setdefault(owner, []).append(place)
        self._give()
        try:
            await place.given
        except BaseException:
            if place.given.cancelled():
                self._drop(place)
            else:
                self.leave(place)
            raise
        return place

    def leave(self, place: Place) -> None:
        """A line is not open any more."""
        for counts, amount in ((self._open, 1), (self._weight, place.weight)):
            counts[place.owner] -= amount
            if not counts[place.owner]:
                del counts[place.owner]
        self._give()

    def pause(self, owner: str, seconds: float) -> None:
        """Let no line of a key in for so long: it is over its limit."""
        self._paused[owner] = time.monotonic() + min(seconds, LONGEST_KEY_PAUSE)
        self._give()

    def _give(self) -> None:
        """Give what places there are, one to each key whose turn it is."""
        now = time.monotonic()
        self._paused = {owner: until for owner, until in self._paused.items() if until > now}
        while sum(self._give_one(owner) for owner in list(self._waiting)):
            continue
        self._look_again(now)

    def _give_one(self, owner: str) -> bool:
        place = self._waiting[owner][0]
        if not place.given.cancelled() and (owner in self._paused or not self._may(owner, place.weight)):
            return False
        self._drop(place)
        if place.given.cancelled():  # who waited is gone, and about to say so
            return True
        if owner in self._waiting:
            self._waiting[owner] = self._waiting.pop(owner)  # to the end: it is the others' turn
        self._open[owner] += 1
        self._weight[owner] += place.weight
        place.given.set_result(None)
        return True

    def _may(self, owner: str, weight: int) -> bool:
        room, own, heavy = self._room(), self._open[owner], self._weight[owner] + weight
        if room <= 0:
            return False
        if own < max(1, room // KEY_SHARE) and (not own or heavy <= self._most // KEY_SHARE):
            return True
        return self._open.total() < room and self._weight.total() + weight <= self._most

    def _drop(self, place: Place) -> None:
        places = self._waiting.get(place.owner, [])
        if place in places:
            places.remove(place)
        if not places:
            self._waiting.pop(place.owner, None)

    def _look_again(self, now: float) -> None:
        """The room changes with time, and pauses end: see to it once that may have changed anything."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        waits = [max(self._paused.get(owner, now) - now, _LOOK_SECONDS) for owner in self._waiting]
        if waits:
            self._look = asyncio.get_running_loop().call_later(min(waits), self._give)


class Turns:
    """One at a time, and of each key one that waits: what a key has much of keeps no other from its turn."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._all = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the block."""
        async with self._of.setdefault(owner, asyncio.Lock()), self._all:
            yield
