"""Whatever is sent, the answer is well-formed and no fault of the service's."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from symmoe.deployments.access.keys import Open
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running, running

pytest.importorskip("schemathesis")
from tests.deployments.api.fuzzing import fuzz

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # schemathesis' own libraries
    pytest.mark.usefixtures("state"),
]
BODY = {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}
ENVELOPE = {"message", "type", "param", "code"}
FIXED = Settings(most_file_bytes=1 << 20, quarantine_after=0)


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, FIXED) as served:
        yield served


def well_formed(case: Any, response: Any) -> None:
    """No 5xx, and an envelope around every error."""
    assert response.status_code < 500, (case.as_curl_command(), response.text)
    if response.status_code >= 400 and case.method != "HEAD":
        assert response.json()["error"].keys() == ENVELOPE, case.as_curl_command()


def sound(case: Any, response: Any) -> None:
    """Where experts come and go some questions have nobody to go to, and are told so."""
    if response.status_code == 503:
        assert response.json()["error"]["code"] == "expert_unavailable", case.as_curl_command()
        return
    well_formed(case, response)


@pytest.mark.slow
def test_a_hundred_requests_out_of_the_schema_find_no_fault(fuzzed: Running) -> None:
    statuses = fuzz(fuzzed, 5, {}, well_formed)
    assert statuses.total() >= 100
    assert statuses[200] > 10
    assert statuses[400] + statuses[404] > 10


@pytest.mark.slow
def test_thousands_of_requests_out_of_the_schema_find_no_fault_and_leave_nothing_behind(
    fuzzed: Running, record_property: Callable[[str, object], None]
) -> None:
    fuzz(fuzzed, 3, {}, well_formed)
    gc.collect()
    before = psutil.Process().memory_info().rss
    statuses = fuzz(fuzzed, 80, {}, well_formed)
    gc.collect()
    record_property("statuses", dict(statuses))
    assert statuses.total() >= 3000
    # 408: a deadline that the request itself names may be over before anybody can answer
    assert set(statuses) <= {200, 201, 400, 403, 404, 405, 406, 408, 409, 413, 415, 422}
    # hypothesis and the client live in this process too, and remember what they drew
    assert psutil.Process().memory_info().rss - before < 160 << 20
    assert fuzzed.metric("symmoe_open_requests") == 0


@pytest.mark.slow
def test_changing_experts_at_random_breaks_nothing(tmp_path: Path) -> None:
    with running(tmp_path, FIXED, Open(admin=True)) as served:
        statuses = fuzz(served, 12, {}, sound)
        assert statuses[201] > 0
        assert served.get("/health").status_code == 200


FORGED = [
    {"x-request-id": "a\tb"},
    {"x-request-id": "x" * 5000},
    {"x-request-id": "{{7*7}}\"'<script>"},
    {"traceparent": "00-" + "f" * 32 + "-" + "0" * 16 + "-01"},
    {"traceparent": "é" * 200},
    {"tracestate": "a=b," * 500},
    {"authorization": "Bearer"},
    {"authorization": "Basic OnBhc3M="},
    {"authorization": "Bearer " + "k" * 8000},
    {"authorization": "\xff\xfe"},
    {"cache-control": "no-store," * 500},
    {"host": "[::1"},
    {"host": "evil.example"},
    {"origin": "http://[::1"},
    {"origin": "null"},
    {"content-length": "-1"},
    {"content-length": "1e9"},
    {"content-type": "application/json; charset=utf-7"},
    {"transfer-encoding": "gzip, chunked"},
    {"content-encoding": "gzip"},
    {"x-forwarded-for": "127.0.0.1"},
    {"expect": "100-continue"},
    {"upgrade": "h2c", "connection": "upgrade"},
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files", "/v1/admin/experts"])
def test_forged_headers_change_nothing(fuzzed: Running, path: str) -> None:
    for headers in FORGED:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        with httpx.Client(timeout=20) as client:
            try:
                answer = client.post(f"{fuzzed.url}{path}", json=BODY, headers=raw)  # type: ignore[arg-type]
            except (httpx.LocalProtocolError, httpx.RemoteProtocolError):
                continue
        assert answer.status_code < 500, headers
        wished = headers.get("x-request-id")
        assert wished is None or answer.headers.get("x-request-id") != wished
    assert fuzzed.post(json=BODY).status_code == 200


def test_connections_that_are_closed_at_any_point_leave_nothing_open(fuzzed: Running) -> None:
    host, port = fuzzed.url.removeprefix("http://").split(":")
    told = b"host: localhost\r\ncontent-type: application/json\r\ncontent-length: 400\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + told
    whole = head + b"\r\n" + b'{"model": "adder", "messages"'
    for length in range(0, len(whole), 7):
        with closing(socket.create_connection((host, int(port)))) as connection:
            connection.sendall(whole[:length])
    fuzzed.until("symmoe_open_requests", 0)
    assert fuzzed.post(json=BODY).status_code == 200


def test_a_reader_that_does_not_read_holds_up_nobody(fuzzed: Running) -> None:
    host, port = fuzzed.url.removeprefix("http://").split(":")
    request = httpx.Request("POST", fuzzed.url, json={**BODY, "stream": True, "n": 16, "temperature": 1})
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(request.content)
    )
    slow = [socket.socket() for _ in range(20)]
    try:
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.connect((host, int(port)))
            connection.sendall(head + request.content)
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: fuzzed.post(json=BODY).status_code, range(20)))
        assert answers == [200] * 20
    finally:
        for connection in slow:
            connection.close()
    fuzzed.until("symmoe_open_requests", 0)


def test_a_writer_that_takes_its_time_holds_up_nobody(fuzzed: Running) -> None:
    host, port = fuzzed.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 30\r\n\r\n{"
        )
        fuzzed.until("symmoe_open_requests", 1)
        assert fuzzed.post(json=BODY).status_code == 200
        for _ in range(29):
            connection.sendall(b" ")
            threading.Event().wait(0.002)
        connection.settimeout(10)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


@pytest.mark.slow
def test_memory_stays_flat_under_bodies_that_are_too_large_or_too_deep(fuzzed: Running) -> None:
    def wrong(number: int) -> int:
        headers = {"content-type": "application/json"}
        if number % 2:
            return fuzzed.post(content=(b" " * (1 << 16) for _ in range(40)), headers=headers).status_code
        return fuzzed.post(content=b'{"metadata": ' + b"[" * 200_000, headers=headers).status_code

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(wrong, range(40)))
        gc.collect()
        before = psutil.Process().memory_info().rss
        assert set(threads.map(wrong, range(200))) == {400, 413}
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 32 << 20
