"""Headers by which anybody could have Ray Serve treat a request in another way: no client's are passed on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from symmoe.deployments.door.proxy import Door
from symmoe.deployments.serving import Served
from symmoe.deployments.settings import Settings

from tests.attacks.door import QUESTION, on_ray_serve

HOLDING = {"model": "adder", "messages": [{"role": "user", "content": "hold on"}], "stream": True}


def names_that_ray_serve_reads() -> list[str]:
    from ray.serve._private import constants

    return [
        constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
        constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
        constants.SERVE_MULTIPLEXED_MODEL_ID,
        constants.SERVE_SESSION_ID,
        f"{constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX}replica",
    ]


def passed_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What of a client's headers comes to the proxy."""
    came: list[tuple[bytes, bytes]] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        came.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    asyncio.run(Door(proxy)(scope, receive, send))
    return came


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_none_of_them_comes_through_however_it_is_written() -> None:
    for name in names_that_ray_serve_reads():
        for written in {name, name.replace("-", "_"), name.replace("_", "-"), name.upper()}:
            given = [(written.encode(), b"?1"), (b"x-of-ours", b"1"), (written.encode(), b"0.001")]
            assert [each for each, _ in passed_on(given)] == [b"x-of-ours", b"x-request-id"]


@pytest.mark.parametrize("wished", [b"a\tb", b"x" * 5000, b"\xff\xfe", b"", b"a b"])
def test_a_name_of_a_request_that_is_not_plain_is_replaced(wished: bytes) -> None:
    ((name, value),) = passed_on([(b"x-request-id", wished), (b"\xff", b"1")])
    assert name == b"x-request-id"
    assert value.isalnum()
    assert len(value) == 24


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with on_ray_serve(tmp_path_factory.mktemp("served"), Settings(), keys=False) as service:
        yield service


def opened(served: Served) -> float:
    text = httpx.get(f"{served.url}/metrics", timeout=20).text
    (line,) = [line for line in text.splitlines() if line.startswith("symmoe_open_requests ")]
    return float(line.split()[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_on_ray_serve_no_client_shortens_or_prolongs_a_request(served: Served) -> None:
    hurried = {"x-request-timeout-seconds": "0.0001"}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=QUESTION, headers=hurried, timeout=60)
    assert answer.status_code == 200, answer.text
    stubborn = {"x-request-disconnect-disabled": "?1"}
    with httpx.stream(
        "POST", f"{served.url}/v1/chat/completions", json=HOLDING, headers=stubborn, timeout=20
    ) as response:
        lines = response.iter_lines()  # kept, as the connection is closed with it
        assert any("adder" in line for line in lines)
        assert opened(served) == 1
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if not opened(served):
            break
    else:
        pytest.fail("who left is still waited for")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
def test_on_ray_serve_a_request_has_one_name(served: Served) -> None:
    for headers in ({}, {"x-request-id": "mine"}):
        for path in ("/health", "/nothing", "/-/healthz"):
            names = httpx.get(f"{served.url}{path}", headers=headers, timeout=20).headers.get_list("x-request-id")
            assert len(names) == 1
            assert names == [headers.get("x-request-id", names[0])]
