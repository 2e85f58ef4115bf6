"""Work repeated beside requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from symmoe.errors import StoreError

from .errors import log_unforeseen


@asynccontextmanager
async def repeating(work: Callable[[], Awaitable[None]], seconds: float, at_once: bool = False) -> AsyncIterator[None]:
    """Do `work` every so many seconds during the block, the first time `at_once`, otherwise once more at its end.

    A `StoreError` is ignored, since the next round asks the store again; any other error is logged.
    """

    async def once() -> None:
        try:
            await work()
        except StoreError:
            pass
        except Exception as error:
            log_unforeseen(error, "work beside requests, which is done again")

    async def on() -> None:
        if at_once:
            await once()
        while True:
            await asyncio.sleep(seconds)
            await once()

    task = asyncio.create_task(on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not at_once:
            await once()
