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
_CONNECTIONS = 64


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
            client = await self._opened()
            try:
                return await work(client)
            except (exceptions.ConnectionError, exceptions.TimeoutError):
                await self._drop(client)
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

    async def _drop(self, client: Redis) -> None:
        """Let go of a client that lost its server, unless somebody else has done so and opened another."""
        if self._client is client:
            await self.close()

    async def _opened(self) -> Redis:
        from redis.asyncio import BlockingConnectionPool, Redis

        async with self._opening:
            if self._client is None:
                url = await asyncio.to_thread(self._url)
                try:
                    # one that blocks: beyond its bound the plain pool fails, and requests come by the hundred
                    pool = BlockingConnectionPool.from_url(
                        url,
                        max_connections=_CONNECTIONS,
                        timeout=_SECONDS,
                        socket_timeout=_SECONDS,
                        socket_connect_timeout=_SECONDS,
                    )
                except ValueError as error:
                    raise StoreError("REDIS_URL cannot be used", hint="write redis://HOST:PORT/DB") from error
                self._client = Redis.from_pool(pool)
            return self._client
