"""What happens close together travels together: each message between processes costs a millisecond."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .events import ENDS, Begun, Event

GATHER = 0.02
"""Seconds within which the pieces of one text travel together."""


async def gathered(events: AsyncGenerator[Event, None]) -> AsyncGenerator[list[Event], None]:
    """Events as lists: the first of a text at once, later ones as many as come together. Closing it closes `events`."""
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    task = asyncio.create_task(_pump(events, queue))
    began = False
    try:
        while (first := await queue.get()) is not None:
            given = [first]
            while not queue.empty() and (more := queue.get_nowait()) is not None:
                given.append(more)
            yield given
            if isinstance(given[-1], ENDS):
                return
            if began:
                await asyncio.sleep(GATHER)
            began = began or not isinstance(given[-1], Begun)
        await task  # it ended without an end: whatever went wrong is raised here
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _pump(events: AsyncGenerator[Event, None], queue: asyncio.Queue[Event | None]) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                queue.put_nowait(event)
    finally:
        queue.put_nowait(None)
