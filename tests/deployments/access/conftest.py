"""Keys in a real store, and a way to take that store away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from symmoe.cli.key import with_store as stored
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import KeyRecord, StoredKeys, add, new_id, new_key
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.store import embedded_socket, open_store
from tests.deployments.api.conftest import PATIENCE, Running, running, until


def make_key(**facts: Any) -> tuple[str, KeyRecord]:
    """A key that the store knows, and its record."""
    key, record = new_key(), KeyRecord(new_id(), "team", time.time(), **facts)
    with ThreadPoolExecutor(1) as aside:  # a browser's loop may run in this thread
        aside.submit(stored, lambda storage: add(storage, key, record)).result()
    return key, record


@contextmanager
def keyed(folder: Path, settings: Settings, **options: Any) -> Iterator[Running]:
    """A service that asks for keys, as an ingress does."""
    storage = Storage()
    with running(folder, settings, StoredKeys(Breaker(storage, PATIENCE), fresh=0.1), storage, **options) as served:
        yield served


def client(served: Running, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)


def ask(served: Running, key: str, text: str = "sums", **options: Any) -> Any:
    """The raw response of the official client, headers and all."""
    messages = [{"role": "user", "content": text}]
    asked = {"model": "adder", "messages": messages, **options}
    return client(served, key).chat.completions.with_raw_response.create(**asked)


def contents() -> dict[bytes, Any]:
    """Everything in the store, by its key."""
    server = redis.Redis(unix_socket_path=str(embedded_socket()))
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"string": server.get,
        b"hash": server.hgetall,
        b"list": lambda name: server.lrange(name, 0, -1),
        b"zset": lambda name: server.zrange(name, 0, -1),
    }
    return {name: read[server.type(name)](name) for name in server.scan_iter()}


def kill_the_store() -> None:
    """End the server without warning, and wait until it is gone."""
    server = redis.Redis(unix_socket_path=str(embedded_socket()), retry=Retry(NoBackoff(), 0))
    os.kill(int(server.info("server")["process_id"]), signal.SIGKILL)
    with pytest.raises(redis.RedisError):
        until(lambda: not server.ping())


@pytest.fixture
def foreign(state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """A store that nobody starts again but the test, by what is yielded."""
    open_store()
    monkeypatch.setenv("REDIS_URL", f"unix://{embedded_socket()}")

    def again() -> None:
        with pytest.MonkeyPatch.context() as own:
            own.delenv("REDIS_URL")
            open_store()

    yield again
    monkeypatch.delenv("REDIS_URL")
