"""The service's access to the store: one pool of connections, and no request blocks another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from symmoe.errors import StoreError
from symmoe.limits import STORE_CONNECTIONS, STORE_DISK_MS, STORE_REQUEST_SECONDS
from symmoe.store import in_file, on_disk, store_error, store_url, unusable

if TYPE_CHECKING:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.client import Pipeline

Result = TypeVar("Result")
_LOOKS = 5
_PAUSE = 0.002


class Storage:
    """Connects on first use, and again after the server was lost.

    `url` returns the server's URL, starting the embedded one if none is running; it may block, and raise `StoreError`.
    Only one thread calls it at a time, however many wait for it or give up. A reply may take `seconds`.
    """

    def __init__(self, url: Callable[[], str] = store_url, seconds: float = STORE_REQUEST_SECONDS) -> None:
        self._url, self._seconds = url, seconds
        self._at = ""
        self._pool: BlockingConnectionPool | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._turns = asyncio.Semaphore(STORE_CONNECTIONS)

    async def do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        """The result of `work`, called with a client. Retried once on connection loss: `work` must be idempotent.

        A server that is merely slow causes no retry. Raises `StoreError` if it does not answer.
        """
        from redis import exceptions

        async with self._turn():
            try:
                client = await self._connected()
                try:
                    return await work(client)
                except exceptions.ConnectionError:
                    await self._connect()
                    return await work(await self._connected())
            except (exceptions.RedisError, OSError, UnicodeError) as error:
                raise store_error(error) from None

    async def close(self) -> None:
        """Close the connections."""
        if self._connecting is not None:
            self._connecting.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.disconnect()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreError("too much waits for the store", hint="ask again in a second") from None
        try:
            yield
        finally:
            self._turns.release()

    async def _connected(self) -> Redis:
        """A client with a connection that stands: what is asked of it reaches the server."""
        from redis import exceptions
        from redis.asyncio import Redis

        if self._pool is None:
            await self._connect()
        try:
            await self._touch()
        except exceptions.ConnectionError:
            await self._connect()
            await self._touch()
        if self._pool is None:
            raise StoreError("the store was closed")
        return Redis(connection_pool=self._pool)

    async def _touch(self) -> None:
        if self._pool is not None:
            await self._pool.release(await self._pool.get_connection())  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        """Ask where the server is; those that come meanwhile wait for the same answer.

        What was connected before is soon again, or is stopped: only the first time a server may take long to start.
        """
        from redis import exceptions

        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._find())
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait
        await asyncio.wait((self._connecting,), timeout=None if self._pool is None else self._seconds)
        if not self._connecting.done():
            raise exceptions.TimeoutError
        self._connecting.result()

    async def _find(self) -> None:
        """Connections of a pool that were lost are made anew by it: it is replaced only if the server moved."""
        from redis.asyncio import BlockingConnectionPool

        url = await asyncio.to_thread(self._url)
        if self._pool is not None and url == self._at:
            return
        seconds = self._seconds
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=STORE_CONNECTIONS,
                timeout=seconds,
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
            )
            pool.make_connection()  # type: ignore[no-untyped-call]
        except (TypeError, ValueError):  # their words would hold pieces of it, and it may hold a password
            raise unusable() from None
        self._pool, self._at = pool, url


def command(*words: str | int) -> Callable[[Redis], Awaitable[Any]]:
    """Work that is one command of the server, such as `command("GET", name)`; its result is as redis-py decodes it."""
    return lambda client: client.execute_command(*words)  # type: ignore[no-untyped-call]


async def durably(client: Redis, write: Callable[[Pipeline], object]) -> list[Any]:
    """Write, wait until it is on the server's disk, and return the reply. (The embedded store flushes once a second.)

    Everything written before, by anybody, is then on the disk too. A server without an append-only file is not waited
    for. Raises `StoreError` if the disk does not confirm in time; the write may still succeed later.
    """
    pipe = client.pipeline(transaction=False)
    write(pipe)
    pipe.execute_command("WAITAOF", 1, 0, STORE_DISK_MS)
    *written, synced = await pipe.execute(raise_on_error=False)
    for result in written:
        if isinstance(result, Exception):
            raise result
    on_disk(synced)
    return written


async def settled(client: Redis) -> None:
    """Wait until this client's writes are in the server's file, and so outlive the server. Raises `StoreError`.

    Quicker than `durably`: for about a second they can still be lost with the whole machine.
    """
    from redis.exceptions import ResponseError

    try:
        for _ in range(_LOOKS):
            if in_file(await client.info("persistence")):
                return
            await asyncio.sleep(_PAUSE)
        waiting: Any = client.waitaof(1, 0, STORE_DISK_MS)
        on_disk(await waiting)
    except ResponseError:  # a server that keeps no such file, or does not tell
        return


def once(work: Callable[[Redis], Awaitable[Result]]) -> Callable[[Redis], Awaitable[Result]]:
    """The same work, never retried: `StoreError` if it was begun and the connection was lost."""
    begun = False

    async def at_most(client: Redis) -> Result:
        nonlocal begun
        if begun:
            raise StoreError("the store was lost over this", hint="ask again")
        begun = True
        return await work(client)

    return at_most
