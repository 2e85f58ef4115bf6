"""Requests whose bodies never end: they take no places from others, and are given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

import httpx
import pytest
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import StoredKeys, new_key
from symmoe.deployments.access.limits import Limits
from symmoe.deployments.serving import Served
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe import limits
from tests.attacks.door import QUESTION, answered, closed, connected, half_sent, head, on_ray_serve
from tests.deployments.access.conftest import keyed, make_key
from tests.deployments.api.conftest import PATIENCE, running

own_store = pytest.mark.usefixtures("state")
PLACES = Settings(most_open=16, key_share=0.25)
CHAT = "/v1/chat/completions"
SILENCE = 1.0
"""After so many seconds without a further answer, none is to come."""


@dataclass
class Slow:
    """A store of which each question takes some time, and a connection so long."""

    storage: Storage
    seconds: float

    def __post_init__(self) -> None:
        self._connections = asyncio.Semaphore(64)

    async def do(self, work: Callable[..., Any]) -> Any:
        async with self._connections:
            await asyncio.sleep(self.seconds)
            return await self.storage.do(work)


@contextmanager
def flooded(url: str, key: str, count: int, refused: int) -> Iterator[list[int]]:
    """So many half-sent requests with a key, open together: how each is refused, or 0 where it is waited for.

    As many as are to be `refused` are waited for, the others for a while.
    """
    with ExitStack() as opened:
        connections = [opened.enter_context(connected(url)) for _ in range(count)]
        for connection in connections:
            connection.sendall(half_sent(key))
        statuses: list[int] = []
        while connections and (
            ready := select(connections, [], [], PATIENCE if len(statuses) < refused else SILENCE)[0]
        ):
            statuses += [answered(connection)[0] for connection in ready]
            connections = [each for each in connections if each not in ready]
        yield [*statuses, *[0] * len(connections)]


def welcome(url: str, key: str) -> list[int]:
    """How somebody else's requests are answered."""
    told = {"authorization": f"Bearer {key}"}
    asked = [httpx.get(f"{url}{path}", headers=told, timeout=120) for path in ("/health", "/metrics", "/v1/models")]
    return [each.status_code for each in (*asked, httpx.post(f"{url}{CHAT}", json=QUESTION, headers=told, timeout=30))]


@own_store
def test_a_key_of_one_request_a_minute_holds_one_place(tmp_path: Path) -> None:
    (hostile, _), (friend, _) = make_key(requests_per_minute=1), make_key()
    with keyed(tmp_path, PLACES) as served, flooded(served.url, hostile, 24, 23) as statuses:
        assert sorted(statuses) == [0, *[429] * 23]
        assert served.metric("symmoe_open_requests") == 1
        assert welcome(served.url, friend) == [200] * 4


@own_store
def test_at_the_door_nobody_knows_of_them(tmp_path: Path) -> None:
    (hostile, _), (friend, _) = make_key(requests_per_minute=1), make_key()
    with keyed(tmp_path, PLACES, door=True) as served, flooded(served.url, hostile, 24, 0) as statuses:
        assert statuses == [0] * 24
        assert served.metric("symmoe_open_requests") == 0
        assert welcome(served.url, friend) == [200] * 4


def test_they_give_way_to_others_when_there_are_too_many_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS", 8)
    with running(tmp_path, Settings(), door=True) as served, ExitStack() as opened:
        connections = [opened.enter_context(connected(served.url)) for _ in range(24)]
        for connection in connections:
            with suppress(ConnectionError):
                connection.sendall(half_sent("none"))
        assert served.post(json=QUESTION).status_code == 200
        assert closed(connections[0])


@own_store
def test_a_key_without_limits_holds_its_share_and_no_more(tmp_path: Path) -> None:
    (hostile, _), (friend, _) = make_key(), make_key()
    with keyed(tmp_path, PLACES) as served, flooded(served.url, hostile, 8, 4) as statuses:
        assert sorted(statuses) == [*[0] * 4, *[429] * 4]
        assert welcome(served.url, friend) == [200] * 4
        assert welcome(served.url, hostile) == [200, 200, 200, 429]
        assert served.metric('symmoe_refused_total{why="open"}') == 5


@own_store
def test_a_burst_is_no_sign_that_the_store_is_lost(tmp_path: Path) -> None:
    (hostile, _), (friend, _) = make_key(requests_per_minute=1), make_key(requests_per_minute=5)

    async def burst() -> list[tuple[str | None, bool]]:
        slow = Slow(Storage(), 0.05)
        known, counted = (
            StoredKeys(Breaker(slow, 1.0)),  # the line of all who ask takes longer
            Limits(Breaker(slow, 1.0), lambda: pytest.fail("nobody was counted")),
        )

        async def ask(key: str) -> tuple[str | None, bool]:
            caller = await known.caller(key)
            return (None, True) if caller is None else (caller.id, (await counted.admit(caller)).exceeded is None)

        asked = [ask(each) for each in (*[hostile] * 500, *(new_key() for _ in range(500)), friend)]
        try:
            return await asyncio.gather(*asked)
        finally:
            await slow.storage.close()

    answers = asyncio.run(burst())
    assert [let_in for _, let_in in answers[:500]].count(True) == 1
    assert {ident for ident, _ in answers[500:1000]} == {None}
    assert answers[1000][0] is not None
    assert answers[1000][1]


@own_store
def test_a_busy_process_is_no_sign_that_the_store_is_lost(tmp_path: Path) -> None:
    key, record = make_key()

    async def busy() -> str | None:
        storage = Storage()
        known = StoredKeys(Breaker(storage, patience=0.2))
        asking = asyncio.ensure_future(known.caller(key))
        try:
            while not asking.done():
                time.sleep(0.08)  # as a thousand requests that are taken in
                await asyncio.sleep(0)
            caller = await asking
            return None if caller is None else caller.id
        finally:
            await storage.close()

    assert asyncio.run(busy()) == record.id


@own_store
def test_who_has_no_key_is_refused_before_the_body_is_there(tmp_path: Path) -> None:
    with keyed(tmp_path, Settings(most_open=1)) as served, flooded(served.url, "none", 8, 8) as statuses:
        assert statuses == [401] * 8
        assert served.metric("symmoe_open_requests") == 0


@pytest.mark.parametrize("door", [False, True])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_body_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: bool, kind: str
) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    path = CHAT if "json" in kind else "/v1/files"
    with running(tmp_path, Settings(most_open=1), door=door) as served:
        with connected(served.url) as connection:
            connection.sendall(head("POST", path, f"content-type: {kind}", "content-length: 400") + b"--x")
            status, headers, body = answered(connection)
            assert (status, body["error"]["code"]) == (408, "body_too_slow")
            assert headers["x-request-id"]
        served.until("symmoe_open_requests", 0)
        assert served.post(json=QUESTION).status_code == 200


@pytest.mark.parametrize("door", [False, True])
def test_a_body_that_comes_byte_by_byte_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: bool
) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.5)
    with running(tmp_path, Settings(), door=door) as served, connected(served.url) as connection:
        connection.sendall(head("POST", CHAT, "content-type: application/json", "content-length: 100000"))
        connection.settimeout(0.02)
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            connection.sendall(b" ")
            try:
                assert answered(connection)[0] == 408
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("it was waited for")


def test_a_body_that_comes_slowly_but_steadily_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 2.0)
    monkeypatch.setattr(limits, "BODY_RATE", 4)
    body = b'{"model": "adder", "messages": [{"role": "user", "content": "sums"}]}'
    with running(tmp_path, Settings(), door=True) as served, connected(served.url) as connection:
        connection.sendall(head("POST", CHAT, "content-type: application/json", f"content-length: {len(body)}"))
        for at in range(0, len(body), 4):
            connection.sendall(body[at : at + 4])
            time.sleep(0.05)
        assert answered(connection)[0] == 200


@pytest.fixture(scope="module")
def on_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with on_ray_serve(tmp_path_factory.mktemp("served"), Settings(most_open=64)) as service:
        yield service


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_on_ray_serve_a_thousand_of_them_shut_nobody_out(on_serve: Served) -> None:
    (hostile, _), (friend, _) = make_key(requests_per_minute=1), make_key()
    with ExitStack() as opened:
        connections = [opened.enter_context(connected(on_serve.url)) for _ in range(1000)]
        for connection in connections:
            connection.sendall(half_sent(hostile))
        assert welcome(on_serve.url, friend) == [200] * 4
        statuses = []
        for connection in connections:
            status, _, body = answered(connection)
            statuses.append((status, body["error"]["code"]))
        assert set(statuses) == {(408, "body_too_slow")}
        assert all(closed(connection) for connection in connections[:3])
    assert welcome(on_serve.url, friend) == [200] * 4
