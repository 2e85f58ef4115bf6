"""The store for what a request waits for: a store that is lost may slow down few requests, and none by much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from symmoe import limits
from symmoe.errors import StoreError, StoreRefusedError

if TYPE_CHECKING:
    from redis.asyncio import Redis

Result = TypeVar("Result")
_LOOKS = 10
"""Parts of the patience: one that lasts longer because the process is busy counts as one."""


class Stored(Protocol):
    """Does work with the store: `Storage`, and `Breaker` around it."""

    async def do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """What `work` gives; it may be run twice. Raises `StoreError`."""
        ...


class Breaker:
    """A circuit breaker: waits `patience` seconds at most, and where the store did not answer asks nothing for `pause`
    seconds. One that answers and refuses has not failed the others.

    Work that took longer is not cancelled: its late answer may still be of use to it. An embedded server that was lost
    is started again within the patience. More than `STORE_ASKS` pieces of work at once wait in line. Neither that nor
    time in which this process was too busy to look counts as patience: many requests that come together are no sign of
    a store that is lost.
    """

    def __init__(self, stored: Stored, patience: float | None = None, pause: float = 0.5) -> None:
        self._stored, self._pause = stored, pause
        self._patience = limits.STORE_PATIENCE if patience is None else patience
        self._open_until = 0.0
        self._going_on: set[asyncio.Future[Any]] = set()
        self._line = asyncio.Semaphore(limits.STORE_ASKS)

    async def do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """What `work` gives; it may be run twice. Raises `StoreError`."""
        async with self._line:
            return await self._in_time(work)

    async def _in_time(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        if time.monotonic() < self._open_until:
            raise StoreError("the store did not answer just now", hint="ask again in a second")
        going = asyncio.ensure_future(self._stored.do(work))
        self._going_on.add(going)
        going.add_done_callback(self._over)
        for _ in range(_LOOKS):
            if (await asyncio.wait((going,), timeout=self._patience / _LOOKS))[0]:
                break
        else:
            self._open_until = time.monotonic() + self._pause
            raise StoreError(f"the store did not answer within {self._patience:g} s", hint="ask again")
        try:
            return going.result()
        except StoreRefusedError:
            raise
        except StoreError:
            self._open_until = time.monotonic() + self._pause
            raise

    def _over(self, gone: asyncio.Future[Any]) -> None:
        self._going_on.discard(gone)
        if not gone.cancelled():
            gone.exception()  # it was told, or nobody waits for it
