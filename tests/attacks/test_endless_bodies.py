"""A body without end, where one is taken and where none is: it is refused or waits, and no process grows by it."""

from __future__ import annotations

import asyncio
import threading
import time
from asyncio import Task
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.types import Message, Receive, Scope, Send
from symmoe.deployments.door.body import Granting
from symmoe.deployments.door.proxy import Door
from symmoe.deployments.serving import Served
from symmoe.deployments.settings import Settings

from symmoe import limits
from tests.attacks.door import answered, closed, connected, endless, head, ingress_process, on_ray_serve, proxy_process
from tests.deployments.access.conftest import make_key
from tests.deployments.api.conftest import running

MIB = 1 << 20
PIECE = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with on_ray_serve(tmp_path_factory.mktemp("served"), Settings()) as service:
        yield service


class Growth:
    """How much a process has grown at most since."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._over = process, threading.Event()
        self.before = self.most = process.memory_info().rss
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Growth:
        self._watching.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._watching.join()

    @property
    def bytes(self) -> int:
        return self.most - self.before

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, self._process.memory_info().rss)


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/nothing", "/v1/files/file-1"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_method_without_a_body_is_refused_one_and_the_connection_ends(tmp_path: Path, method: str, path: str) -> None:
    with running(tmp_path, Settings(), door=True) as own, connected(own.url) as connection:
        connection.sendall(head(method, path, "transfer-encoding: chunked"))
        sent = endless(connection, PIECE, seconds=20, most=256 * MIB)
        assert sent < 64 * MIB  # what the kernel holds, and what is thrown away so that the answer is seen


@pytest.mark.parametrize("headers", [["content-length: 7"], ["transfer-encoding: chunked"]])
def test_who_sends_one_all_the_same_is_told_why(tmp_path: Path, headers: list[str]) -> None:
    for door in (False, True):
        with running(tmp_path / str(door), Settings(), door=door) as own, connected(own.url) as connection:
            connection.sendall(head("GET", "/v1/models", *headers))
            status, _, body = answered(connection)
            assert (status, body["error"]["code"]) == (400, "unexpected_body")
            assert closed(connection)


def test_what_an_answered_request_goes_on_sending_is_thrown_away_and_the_connection_ends(tmp_path: Path) -> None:
    with running(tmp_path, Settings(), door=True) as own, connected(own.url) as connection:
        connection.sendall(head("POST", "/v1/models", "transfer-encoding: chunked") + PIECE)
        assert answered(connection)[0] == 405
        assert endless(connection, PIECE, seconds=20, most=256 * MIB) < 64 * MIB


def test_who_ends_in_time_keeps_the_connection(tmp_path: Path) -> None:
    body = b"x" * MIB
    with running(tmp_path, Settings(), door=True) as own, connected(own.url) as connection:
        for _ in range(3):
            connection.sendall(head("POST", "/v1/models", f"content-length: {len(body)}"))
            connection.sendall(body)
            assert answered(connection)[0] == 405
        connection.sendall(head("GET", "/health"))
        assert answered(connection)[0] == 200


class Sender:
    """A client that sends pieces of a body as fast as they are taken, and counts them."""

    def __init__(self, piece: int) -> None:
        self.taken, self._piece = 0, b"x" * piece

    async def __call__(self) -> Message:
        await asyncio.sleep(0)
        self.taken += len(self._piece)
        return {"type": "http.request", "body": self._piece, "more_body": True}


def through(door: Door, receive: Receive) -> Task[None]:
    async def ignore(message: Message) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/files", "headers": []}
    return asyncio.ensure_future(door(scope, receive, ignore))


async def turns() -> None:
    for _ in range(2000):
        await asyncio.sleep(0)


def test_the_proxy_takes_in_no_more_than_is_read() -> None:
    sender, read = Sender(1 << 14), 0
    goes_on = asyncio.Event()

    async def eager(scope: Scope, receive: Receive, send: Send) -> None:
        """As Ray Serve: what comes is put into a queue at once, and its application reads from the other end."""
        nonlocal read
        queue: asyncio.Queue[Message] = asyncio.Queue()

        async def fill() -> None:
            while True:
                queue.put_nowait(await receive())

        filling = asyncio.ensure_future(fill())
        application = Granting(queue.get, send)
        await goes_on.wait()
        while read < 20 * MIB:
            read += len((await application())["body"])
            assert sender.taken - read <= limits.BODY_WINDOW_BYTES + limits.BODY_FIRST_BYTES
        filling.cancel()

    async def attack() -> None:
        passing = through(Door(eager), sender)
        await turns()
        assert sender.taken == limits.BODY_FIRST_BYTES
        goes_on.set()
        await asyncio.wait_for(passing, 60)
        assert read >= 20 * MIB

    asyncio.run(attack())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/nothing", "/-/healthz"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_proxy_does_not_grow_by_a_body_that_nobody_reads(served: Served, method: str, path: str) -> None:
    def attack(number: int) -> int:
        with connected(served.url) as connection:
            connection.sendall(head(method, path, "transfer-encoding: chunked"))
            return endless(connection, PIECE, seconds=10, most=384 * MIB)

    with Growth(proxy_process()) as growth, ThreadPoolExecutor(8) as threads:
        sent = sum(threads.map(attack, range(8)))
    assert growth.bytes < 64 * MIB
    assert sent < 8 * 64 * MIB


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_proxy_does_not_grow_while_the_application_is_busy(served: Served, method: str) -> None:
    def attack(number: int) -> int:
        with connected(served.url) as connection:
            connection.sendall(head(method, "/v1/models", "transfer-encoding: chunked"))
            return endless(connection, PIECE, seconds=6, most=384 * MIB)

    ingress = ingress_process()
    with Growth(proxy_process()) as growth, ThreadPoolExecutor(8) as threads:
        ingress.suspend()
        try:
            sent = sum(threads.map(attack, range(8)))
        finally:
            ingress.resume()
    assert growth.bytes < 64 * MIB
    assert sent < 8 * 64 * MIB


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_a_large_file_still_comes_in_whole_and_no_process_holds_it(served: Served) -> None:
    key, _ = make_key()
    told = {"authorization": f"Bearer {key}"}
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'
    contents = line * (128 * MIB // len(line))
    processes = [proxy_process(), ingress_process()]
    began = time.monotonic()
    with Growth(processes[0]) as proxy, Growth(processes[1]) as ingress:
        given = httpx.post(
            f"{served.url}/v1/files", files={"file": contents}, data={"purpose": "batch"}, headers=told, timeout=120
        )
    assert time.monotonic() - began < 60
    assert given.status_code == 200, given.text
    assert given.json()["bytes"] == len(contents)
    assert max(proxy.bytes, ingress.bytes) < 64 * MIB
    back = httpx.get(f"{served.url}/v1/files/{given.json()['id']}/content", headers=told, timeout=120)
    assert back.content == contents
