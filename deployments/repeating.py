"""Work that is done again and again beside requests, and once more at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from symmoe.errors import StoreError


@asynccontextmanager
async def repeating(work: Callable[[], Awaitable[None]], seconds: float) -> AsyncIterator[None]:
    """Do `work` every so many seconds, as long as the block lasts, and once more at its end.

    A store that is away is asked again the next time.
    """

    async def once() -> None:
        with suppress(StoreError):
            await work()

    async def on() -> None:
        while True:
            await asyncio.sleep(seconds)
            await once()

    task = asyncio.create_task(on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await once()
