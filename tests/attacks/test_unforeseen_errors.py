"""What nobody foresaw is told in the envelope, under the request's name, and nowhere in its own words."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from symmoe.deployments.door.proxy import Door
from symmoe.deployments.settings import Settings

from tests.attacks.door import QUESTION, answered, closed, connected, head
from tests.deployments.api.conftest import Running, running

PROMPT = "-".join(("a", "secret", "question"))
ENVELOPE = {"message", "type", "param", "code"}


def fail(*arguments: object, **options: object) -> Any:
    raise RuntimeError(f"cannot answer {PROMPT}")


@pytest.fixture(params=[False, True], ids=["app", "door"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, Settings(), door=request.param) as service:
        yield service


def is_envelope(answer: httpx.Response, status: int) -> bool:
    error = answer.json()["error"]
    return answer.status_code == status and error.keys() == ENVELOPE and len(answer.headers["x-request-id"]) > 0


@pytest.mark.parametrize("broken", ["known", "admitted", "opened", "_order"])
def test_an_error_anywhere_in_the_application_is_an_envelope_and_its_words_are_not_logged(
    served: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    monkeypatch.setattr(served.service, broken, fail)
    with caplog.at_level(logging.DEBUG):
        answer = served.post(json=QUESTION)
    assert is_envelope(answer, 500)
    assert answer.json()["error"]["code"] == "internal_error"
    assert PROMPT not in caplog.text + answer.text
    assert caplog.text.count("RuntimeError in a request") == 1
    assert "in fail" in caplog.text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/health", 405)])
def test_paths_and_methods_that_are_none_are_an_envelope(served: Running, method: str, path: str, status: int) -> None:
    assert is_envelope(httpx.request(method, f"{served.url}{path}", timeout=20), status)


def test_an_answer_that_is_cut_short_ends_with_its_connection_and_its_words_are_not_logged(
    served: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from symmoe.deployments.api import files

    class Half(files.JSONResponse):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            fail()

    from symmoe.deployments.api import application

    monkeypatch.setattr(application, "JSONResponse", Half)
    with caplog.at_level(logging.DEBUG), pytest.raises(httpx.RemoteProtocolError):
        served.get("/v1/models")
    assert PROMPT not in caplog.text
    assert "RuntimeError in a request" in caplog.text


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        head("GET", "/")[:-2] + b"a b: c\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_what_is_no_http_is_told_in_the_envelope(tmp_path: Path, sent: bytes) -> None:
    with running(tmp_path, Settings(), door=True) as served, connected(served.url) as connection:
        connection.sendall(sent)
        status, headers, body = answered(connection)
        assert (status, body["error"]["code"]) == (400, "invalid_http")
        assert headers["x-request-id"]
        assert closed(connection)


def through(app: ASGIApp, path: str = "/v1/models") -> tuple[int, dict[str, str], bytes]:
    """What a client sees of a proxy behind the door."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Door(app)({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send))
    headers = {bytes(name).decode(): bytes(value).decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def plain(status: int) -> ASGIApp:
    """A proxy that says in plain text what went wrong."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [[b"content-type", b"text/plain; charset=utf-8"], [b"content-length", b"%d" % len(PROMPT)]]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": PROMPT.encode()})

    return app


@pytest.mark.parametrize("status", [404, 408, 429, 500, 503])
def test_the_proxys_own_errors_are_an_envelope(status: int) -> None:
    told, headers, body = through(plain(status))
    assert told == status
    assert json.loads(body)["error"].keys() == ENVELOPE
    assert headers["x-request-id"]
    assert ("retry-after" in headers) == (status in (429, 503))
    assert PROMPT.encode() not in body


def test_the_proxys_own_errors_have_the_shape_of_the_path_that_was_asked() -> None:
    _, headers, body = through(plain(503), "/v1/messages")
    told = json.loads(body)
    assert (told["type"], told["error"]["type"]) == ("error", "overloaded_error")
    assert told["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize(("path", "status"), [("/metrics", 200), ("/-/healthz", 503)])
def test_what_is_meant_as_text_stays_text(path: str, status: int) -> None:
    assert through(plain(status), path)[::2] == (status, PROMPT.encode())


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    fail()


@pytest.mark.parametrize("app", [silent, failing])
def test_a_proxy_that_fails_or_says_nothing_is_an_envelope(
    app: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    status, headers, body = through(app)
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
    assert headers["x-request-id"]
    assert PROMPT not in caplog.text
