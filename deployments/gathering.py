"""Groups events that happen close together, as each message between processes costs a millisecond."""

from __future__ import annotations

import asyncio

from .events import Begun, Event

_GATHER = 0.02
"""Seconds within which the pieces of one text travel together."""


class Gathered:
    """The events of one generation between their producer and their sender.

    The first piece of text is available at once; later ones are collected for 20 ms and taken together.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._pieces = 0
        self.put = self._queue.put_nowait

    async def take(self) -> list[Event]:
        """Wait for the next events: one or more, in order. Only one task may take."""
        if self._pieces > 1:
            await asyncio.sleep(_GATHER)
        events = [await self._queue.get()]
        while not self._queue.empty():
            events.append(self._queue.get_nowait())
        self._pieces += self._pieces > 0 or not isinstance(events[-1], Begun)
        return events
