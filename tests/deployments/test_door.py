"""The layer around Ray Serve's proxy, while that is being drained."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from symmoe.deployments.door.proxy import Door

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray Serve's own models


def answered_by(proxy: Any) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that comes from a proxy through the layers which Ray Serve puts around it."""
    from ray.serve._private.http_util import RequestIdMiddleware

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(Door(RequestIdMiddleware(proxy))(scope, receive, send))
    return [tuple(header) for header in sent[0]["headers"]]


class Proxy:
    """Answers, and says of itself whether it drains, as Ray Serve's does."""

    def __init__(self, drains: bool) -> None:
        self._drains = drains

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    def _is_draining(self) -> bool:
        return self._drains


def test_answers_of_a_proxy_that_drains_end_their_connections() -> None:
    assert (b"connection", b"close") in answered_by(Proxy(True))
    assert (b"connection", b"close") not in answered_by(Proxy(False))


def test_ray_serves_proxy_says_whether_it_drains() -> None:
    from ray.serve._private.proxy import HTTPProxy

    assert callable(HTTPProxy._is_draining)
