"""Work that is done again and again beside requests, and once more at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from symmoe.errors import StoreError

from .errors import log_unforeseen


@asynccontextmanager
async def repeating(work: Callable[[], Awaitable[None]], seconds: float) -> AsyncIterator[None]:
    """Do `work` every so many seconds, as long as the block lasts, and once more at its end.

    A store that is away is asked again the next time, and what fails unforeseen is logged and done again.
    """

    async def once() -> None:
        try:
            await work()
        except StoreError:
            pass
        except Exception as error:
            log_unforeseen(error, "work beside requests, which is done again")

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
