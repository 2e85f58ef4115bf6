from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis
from symmoe.deployments.storage import Storage

from symmoe.errors import StoreError
from symmoe.store import embedded_socket, open_store


async def counted(client: Redis) -> int:
    return int(await client.incr("count"))


def kill_the_server() -> None:
    number = open_store()._client.info("server")["process_id"]
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


def test_a_server_that_does_not_answer_is_a_clear_error_without_its_address() -> None:
    storage = Storage(lambda: "redis://:secret@127.0.0.1:1/0")
    with pytest.raises(StoreError, match="the store does not answer") as caught:
        asyncio.run(storage.do(counted))
    assert "secret" not in str(caught.value)
