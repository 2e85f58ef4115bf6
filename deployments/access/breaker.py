"""The store for what a request waits for: a store that is lost may slow down few requests, and none by much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from symmoe import limits
from symmoe.errors import StoreError

if TYPE_CHECKING:
    from redis.asyncio import Redis

Result = TypeVar("Result")
_LOOKS = 10
"""Parts of the patience: one that lasts longer because the process is busy counts as one."""


class Stored(Protocol):
    """Does work with the store; `Storage` does, and `Breaker`."""

    async def do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """What `work` gives; it may be run twice. Raises `StoreError`."""
        ...


class Breaker:
    """A circuit breaker: waits `patience` seconds at most, and after a failure asks nothing for `pause` seconds.

    An embedded server that was lost is started again within the patience. Work beyond `STORE_ASKS` at once waits in
    line, which takes none of its patience, and neither does time in which this process was too busy to look: many
    requests that come together are no sign of a store that is lost.
    """

    def __init__(self, stored: Stored, patience: float = 1.0, pause: float = 0.5) -> None:
        self._stored, self._patience, self._pause = stored, patience, pause
        self._open_until = 0.0
        self._line = asyncio.Semaphore(limits.STORE_ASKS)

    async def do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """What `work` gives; it may be run twice. Raises `StoreError`."""
        async with self._line:
            return await self._in_time(work)

    async def _in_time(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        if time.monotonic() < self._open_until:
            raise StoreError("the store did not answer just now", hint="ask again in a second")
        try:
            return await self._within(self._stored.do(work))
        except TimeoutError as error:
            self._open_until = time.monotonic() + self._pause
            raise StoreError(f"the store did not answer within {self._patience:g} s", hint="ask again") from error
        except StoreError:
            self._open_until = time.monotonic() + self._pause
            raise

    async def _within(self, asked: Awaitable[Result]) -> Result:
        answer = asyncio.ensure_future(asked)
        try:
            for _ in range(_LOOKS):
                if (await asyncio.wait({answer}, timeout=self._patience / _LOOKS))[0]:
                    return answer.result()
            raise TimeoutError
        finally:
            if not answer.done():
                answer.cancel()
                await asyncio.wait({answer})
