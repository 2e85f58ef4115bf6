"""One connection at uvicorn, which by itself waits for ever and takes heads of any length."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from symmoe import limits
from symmoe.wire.answers import envelope

from ..errors import ApiError

PASSED_ON = "symmoe.passed_on"
"""What a request's scope has once its body was waited for."""


class Connection(HttpToolsProtocol):
    """An HTTP connection whose client must say in time what it wants, in a head of bounded length.

    What is left of a body after its answer is thrown away, so that the client sees the answer, and then the connection
    is closed. Nothing here speaks WebSocket.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ws_protocol_class = None
        self.silent_since = time.monotonic()
        self._head = self._unheeded = self._thrown = 0
        self._over: ApiError | None = None
        self._timer: TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether no request is open, and the connection is."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    @property
    def may_give_way(self) -> bool:
        """Whether it may be closed for another: nothing is being answered, and no request is whole."""
        pending = self.cycle is not None and PASSED_ON not in self.cycle.scope
        return self.waits or (pending and not self.transport.is_closing())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; where there are more than `CONNECTIONS`, abort the one that was silent longest."""
        super().connection_made(transport)
        self._close_in(limits.HEAD_SECONDS)
        if len(self.connections) > limits.CONNECTIONS:
            idle = [
                connection
                for connection in self.connections
                if isinstance(connection, Connection) and connection.may_give_way
            ]
            min(idle, key=lambda connection: connection.silent_since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stay()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came. A head that is too long ends the connection with 431."""
        self._unheeded += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unheeded > limits.HEAD_BYTES:
            self._over = _too_long()
            self.send_400_response("")
        elif self.waits and self._timer is None:
            self._close_in(limits.HEAD_SECONDS)

    def on_message_begin(self) -> None:
        """Begin to count the bytes of a head."""
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count a piece of the path."""
        self._measure(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, before the body or after it."""
        self._measure(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: the client is not waited for any more."""
        self._stay()
        self._unheeded = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body, or throw it away after the answer, up to `LINGER_BYTES`."""
        self._unheeded = 0
        if self.cycle.response_complete:
            self._thrown += len(body)
            if self._thrown > limits.LINGER_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._unheeded = 0
        super().on_message_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self.cycle.more_body = False
            self._stay()

    def on_response_complete(self) -> None:
        """The answer is sent: what is left of the body may come for `LINGER_SECONDS`."""
        super().on_response_complete()
        self.silent_since = time.monotonic()
        if self.waits and self.cycle.more_body and not self.transport.is_closing():
            self._thrown = 0
            self._close_in(limits.LINGER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with the connection itself, and end it."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(_answer(self._over or ApiError(400, "invalid_http", "this is no valid HTTP request")))
        self.transport.close()

    def _measure(self, count: int) -> None:
        self._head += count
        if self._head > limits.HEAD_BYTES:
            self._over = _too_long()
            raise self._over  # the parser stops, and what is wrong is said by `send_400_response`

    def _close_in(self, seconds: float) -> None:
        self._stay()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stay(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _too_long() -> ApiError:
    return ApiError(431, "headers_too_large", f"the request's head is longer than {limits.HEAD_BYTES} bytes")


def _answer(error: ApiError) -> bytes:
    body = json.dumps(envelope(error)).encode()
    heads = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": secrets.token_hex(12),
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in heads.items())
    return STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body
