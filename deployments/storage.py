"""The store as the service uses it: over one pool of connections, never blocking the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from symmoe.errors import StoreError
from symmoe.store import store_url

if TYPE_CHECKING:
    from redis.asyncio import Redis

Result = TypeVar("Result")
_SECONDS = 5.0


class Storage:
    """Opened at first use, and again after the server was lost.

    `url` gives the server's URL, starting the embedded one where there is none; it may block, and raise `StoreError`.
    """

    def __init__(self, url: Callable[[], str] = store_url) -> None:
        self._url = url
        self._client: Redis | None = None
        self._opening = asyncio.Lock()

    async def do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """What `work` gives, done with a client: a second time if the connection was lost, so that it must bear that.

        Raises `StoreError` if the store does not answer.
        """
        from redis import exceptions

        try:
            try:
                return await work(await self._opened())
            except (exceptions.ConnectionError, exceptions.TimeoutError):
                await self.close()
                return await work(await self._opened())
        except exceptions.RedisError as error:
            raise StoreError(
                f"the store does not answer: {type(error).__name__}", hint="check REDIS_URL; `symmoe doctor` says more"
            ) from error

    async def close(self) -> None:
        """Let the connections go."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _opened(self) -> Redis:
        from redis.asyncio import Redis

        async with self._opening:
            if self._client is None:
                url = await asyncio.to_thread(self._url)
                self._client = Redis.from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
            return self._client
