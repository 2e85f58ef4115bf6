"""Connections that say nothing, or never come to an end with saying it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from symmoe.deployments.serving import Served
from symmoe.deployments.settings import Settings

from symmoe import limits
from tests.attacks.door import answered, closed, connected, endless, head, on_ray_serve
from tests.deployments.api.conftest import Running, running

MIB = 1 << 20


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, Settings(), door=True) as service:
        yield service


@pytest.mark.parametrize("said", [b"", b"GET", b"GET /health HTTP/1.1\r\nhost: lo", b"\r\n"])
def test_who_does_not_say_what_is_wanted_is_closed_on(
    served: Running, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    with connected(served.url) as connection:
        connection.sendall(said)
        assert closed(connection)


@pytest.mark.parametrize("after", [False, True])
def test_who_says_it_byte_by_byte_is_closed_on(served: Running, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.5)
    with connected(served.url) as connection:
        if after:
            connection.sendall(head("GET", "/health"))
            assert answered(connection)[0] == 200
        ends = time.monotonic() + 30
        connection.sendall(b"GET /health HTTP/1.1\r\nx-a: ")
        while time.monotonic() < ends:
            try:
                connection.sendall(b"x")
            except OSError:
                break
            time.sleep(0.02)
        else:
            pytest.fail("it was waited for")


@pytest.mark.parametrize(
    "begun", [b"GET /", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nx-a: ", b"GET / HTTP/1.1\r\nx-"]
)
def test_a_head_without_end_is_refused(served: Running, begun: bytes) -> None:
    with connected(served.url) as connection:
        connection.sendall(begun)
        piece = b"x-b: c\r\n" * 1000 if begun.endswith(b"\n") else b"x" * 8000
        assert endless(connection, piece, seconds=20, most=64 * MIB) < 32 * MIB


def test_a_long_head_is_told_so(served: Running) -> None:
    with connected(served.url) as connection:
        connection.sendall(head("GET", "/health", "x-a: " + "x" * limits.HEAD_BYTES))
        status, _, body = answered(connection)
        assert (status, body["error"]["code"]) == (431, "headers_too_large")


def test_headers_after_a_body_without_end_are_refused(served: Running) -> None:
    with connected(served.url) as connection:
        connection.sendall(head("POST", "/v1/chat/completions", "transfer-encoding: chunked") + b"0\r\nx-a: ")
        assert endless(connection, b"x" * 8000, seconds=20, most=64 * MIB) < 32 * MIB


def test_a_new_connection_takes_the_place_of_the_one_that_is_silent_longest(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS", 8)
    with ExitStack() as opened:
        silent = [opened.enter_context(connected(served.url)) for _ in range(30)]
        with connected(served.url) as connection:
            connection.sendall(head("GET", "/health"))
            assert answered(connection)[0] == 200
        assert all(closed(each) for each in silent[:20])


def test_who_asks_again_and_again_on_one_connection_is_answered(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    with connected(served.url) as connection:
        for _ in range(4):
            connection.sendall(head("GET", "/health"))
            assert answered(connection)[0] == 200
            time.sleep(0.2)
        connection.sendall(head("GET", "/health") * 3)
        came = b""
        while came.count(b"HTTP/1.1 200") < 3:  # they may come in one piece
            came += connection.recv(4096) or pytest.fail("closed before all were answered")


@pytest.fixture(scope="module")
def on_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with on_ray_serve(tmp_path_factory.mktemp("served"), Settings(), keys=False) as service:
        yield service


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_on_ray_serve_a_silent_connection_is_closed(on_serve: Served) -> None:
    with connected(on_serve.url) as connection:
        began = time.monotonic()
        assert closed(connection)
        assert time.monotonic() - began >= limits.HEAD_SECONDS - 1
