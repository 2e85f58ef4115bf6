"""A store that takes its time is waited for: nothing is done twice, no second server is started, no thread is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from symmoe.cli.key import with_store
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import KeyRecord, StoredKeys, add, new_id, new_key, revoke
from symmoe.deployments.storage import Storage, once

from symmoe.errors import StoreError
from symmoe.store import open_store, running_server, stop_embedded
from tests.stores import connected

from .conftest import eventually, servers


async def counted(client: Redis) -> int:
    return int(await client.incr("count"))


@contextmanager
def stopped(state: Path) -> Iterator[None]:
    (server,) = servers(state)
    server.suspend()
    try:
        yield
    finally:
        server.resume()


def count() -> int:
    return int(connected().get("count") or 0)  # type: ignore[arg-type]


def test_a_command_that_finds_a_stopped_server_waits_and_then_says_so(state: Path) -> None:
    open_store()
    with stopped(state):
        with pytest.raises(StoreError, match=r"process \d+\) does not answer within 0.3 s") as caught:
            running_server(patience=0.3)
        with pytest.raises(StoreError, match="does not answer"):
            stop_embedded(patience=0.3)
        assert "valkey.log" in (caught.value.hint or "")
        assert len(servers(state)) == 1
        threading.Timer(0.3, servers(state)[0].resume).start()
        assert running_server(patience=30) == state / "valkey.sock"
    assert len(servers(state)) == 1


def test_a_server_whose_socket_was_deleted_is_not_doubled(state: Path) -> None:
    open_store()
    (state / "valkey.sock").unlink()
    with pytest.raises(StoreError, match="does not answer"):
        running_server(patience=0.3)
    (server,) = servers(state)
    server.kill()
    open_store()
    assert len(servers(state)) == 1


def test_what_was_sent_to_a_stopped_server_is_not_sent_again(state: Path) -> None:
    async def over_a_stall() -> None:
        storage = Storage(seconds=0.3)
        assert await storage.do(counted) == 1
        with stopped(state):
            for _ in range(3):
                with pytest.raises(StoreError, match="in time"):
                    await storage.do(counted)
        assert await storage.do(counted) in range(2, 6)
        await storage.close()

    asyncio.run(over_a_stall())
    assert len(servers(state)) == 1
    eventually(lambda: count() <= 5)


def test_many_that_give_up_on_a_stopped_server_hold_one_thread(state: Path) -> None:
    async def giving_up() -> int:
        storage = Storage(lambda: f"unix://{running_server(patience=5)}")
        breaker = Breaker(storage, patience=0.05, pause=0.0)
        with stopped(state):
            before = threading.active_count()
            for _ in range(10):
                with pytest.raises(StoreError):
                    await breaker.do(counted)
            return threading.active_count() - before

    open_store()
    assert asyncio.run(giving_up()) <= 1


def test_work_that_must_not_be_doubled_is_not_when_the_connection_is_lost_over_it(state: Path) -> None:
    async def losing(client: Redis) -> int:
        await counted(client)
        servers(state)[0].kill()
        return await counted(client)

    async def lost() -> int:
        storage = Storage()
        with pytest.raises(StoreError, match="lost over this"):
            await storage.do(once(losing))
        found = await storage.do(counted)
        for server in servers(state):
            server.kill()
        await asyncio.sleep(0.1)  # the connection's end is noticed
        assert await storage.do(once(counted)) >= found  # it was lost before this was begun
        await storage.close()
        return found

    assert asyncio.run(lost()) <= 2


def test_a_key_revoked_while_the_store_is_slow_is_refused_as_soon_as_the_store_has_said_so(state: Path) -> None:
    key, record = new_key(), KeyRecord(new_id(), "team", time.time())
    with_store(lambda storage: add(storage, key, record))

    class Slow:
        """A store whose answers come late, after nobody waits for them any more."""

        def __init__(self) -> None:
            self.storage, self.wait = Storage(), 0.0

        async def do(self, work):  # type: ignore[no-untyped-def]
            await asyncio.sleep(self.wait)
            return await self.storage.do(work)

    async def asking() -> None:
        slow = Slow()
        known = StoredKeys(Breaker(slow, patience=0.1, pause=0.0), fresh=0.0)
        assert await known.caller(key) is not None
        slow.wait = 0.5
        assert await revoke(slow.storage, record.id, time.time()) is not None
        assert await known.caller(key) is not None  # the store was asked, and has not answered
        await asyncio.sleep(1.0)
        with pytest.raises(StoreError):
            await known.caller(key)
        await slow.storage.close()

    asyncio.run(asking())
