"""How many lines are open at once: many while nobody else asks, few while online requests are there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

_LOOK_SECONDS = 0.25


class Window:
    """Shared by the batches that run; the oldest one's lines go first. `room` says how many may be open now."""

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._open = 0
        self._waiting: Counter[str] = Counter()
        self._changed = asyncio.Event()

    async def enter(self, batch: str) -> None:
        """Wait until one more line of this batch may be open."""
        self._waiting[batch] += 1
        try:
            while self._open >= self._room() or min(self._waiting) < batch:
                await self._change()
            self._open += 1
        finally:
            self._waiting[batch] -= 1
            self._waiting += Counter()  # drops those at zero
            self._tell()

    def leave(self) -> None:
        """A line is not open any more."""
        self._open -= 1
        self._tell()

    async def _change(self) -> None:
        """Something changed here, or enough time went by for the room to have changed."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
