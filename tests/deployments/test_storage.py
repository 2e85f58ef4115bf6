from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis
from symmoe.deployments.storage import Storage

from symmoe.errors import StoreError
from symmoe.store import embedded_socket
from tests.stores import connected


async def counted(client: Redis) -> int:
    return int(await client.incr("count"))


def kill_the_server() -> None:
    number = connected().info("server")["process_id"]
    os.kill(number, signal.SIGKILL)


def test_what_is_done_reaches_the_store(state: Path) -> None:
    async def twice() -> tuple[int, int]:
        storage = Storage()
        both = await storage.do(counted), await storage.do(counted)
        await storage.close()
        return both

    assert asyncio.run(twice()) == (1, 2)


def test_an_embedded_server_that_was_killed_is_started_again(state: Path) -> None:
    async def over_a_loss() -> int:
        storage = Storage()
        await storage.do(counted)
        kill_the_server()
        count = await storage.do(counted)
        await storage.close()
        return count

    assert asyncio.run(over_a_loss()) in (1, 2)  # the file is flushed once a second
    assert embedded_socket().exists()


def test_more_work_at_once_than_there_are_connections_waits_for_its_turn(state: Path) -> None:
    async def slow(client: Redis) -> int:
        await client.blpop("nothing there", timeout=0.05)
        return await counted(client)

    async def at_once() -> list[int]:
        storage = Storage()
        counts = await asyncio.gather(*(storage.do(slow) for _ in range(200)))
        await storage.close()
        return counts

    assert sorted(asyncio.run(at_once())) == list(range(1, 201))


def test_after_a_loss_much_work_at_once_opens_one_client_and_all_of_it_is_done(state: Path) -> None:
    async def over_a_loss() -> list[int]:
        storage = Storage()
        await asyncio.gather(*(storage.do(counted) for _ in range(50)))
        kill_the_server()
        counts = await asyncio.gather(*(storage.do(counted) for _ in range(50)))
        await storage.close()
        return counts

    assert len(set(asyncio.run(over_a_loss()))) == 50


def test_a_url_that_cannot_be_used_is_a_clear_error() -> None:
    with pytest.raises(StoreError, match="REDIS_URL cannot be used"):
        asyncio.run(Storage(lambda: "http://:secret@localhost").do(counted))


def test_a_server_that_does_not_answer_is_a_clear_error_without_its_address() -> None:
    storage = Storage(lambda: "redis://:secret@127.0.0.1:1/0")
    with pytest.raises(StoreError, match="the store does not answer") as caught:
        asyncio.run(storage.do(counted))
    assert "secret" not in str(caught.value)
