"""A request's body on its way in: who may send one, how long it may take, and how much of it may be under way."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive, Scope, Send

from symmoe import limits

from ..errors import ApiError

GRANT = "symmoe.grant"
"""The ASGI message by which an application lets so many `bytes` more of the body follow. No client ever sees it."""
GRANTING = "symmoe.granting"
"""The ASGI extension that says that such messages are waited for."""
_WITHOUT = ("GET", "HEAD", "DELETE", "OPTIONS")


def check_bodiless(scope: Scope) -> None:
    """`ApiError` for a body with a method that takes none: nobody would read it, however long it is."""
    if scope["method"] not in _WITHOUT:
        return
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ")):
            raise ApiError(
                400, "unexpected_body", "a request of this method has no body", headers={"connection": "close"}
            )


class Paced:
    """A `receive` that raises `ApiError` 408 for a client that keeps it waiting for too long in all.

    That is `BODY_SECONDS`, and a second more for every `BODY_RATE` bytes that came. Time between two calls is not
    waiting. `whole` is True once the last part of the body came.
    """

    def __init__(self, receive: Receive) -> None:
        self.whole = False
        self._receive = receive
        self._waited, self._came = 0.0, 0

    async def __call__(self) -> Message:
        """The next message."""
        if self.whole:  # what comes now is that the client left, after however long
            return await self._receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(limits.BODY_SECONDS + self._came / limits.BODY_RATE - self._waited):
                message = await self._receive()
        except TimeoutError:
            error_message = "the body did not come in time; send it faster, or in smaller pieces"
            raise ApiError(408, "body_too_slow", error_message) from None
        self._waited += time.monotonic() - began
        self._came += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        return message


class Window:
    """A `receive` that takes in no more of a body than `BODY_FIRST_BYTES` and what the application has granted."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._room = limits.BODY_FIRST_BYTES
        self._granted = asyncio.Event()

    def grant(self, count: int) -> None:
        """Let so many bytes more follow."""
        self._room += count
        self._granted.set()

    @property
    def open(self) -> bool:
        """Whether the next message may be taken in now."""
        return self._room > 0

    async def __call__(self) -> Message:
        """The next message, when there is room for it."""
        while not self.open:
            self._granted.clear()
            await self._granted.wait()
        message = await self._receive()
        self._room -= len(message.get("body", b""))
        return message


class Granting:
    """The application's side of a `Window`: a `receive` that grants as many bytes as it has read."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._owed, self._first = 0, True

    async def __call__(self) -> Message:
        """The next message."""
        message = await self._receive()
        self._owed += len(message.get("body", b""))
        if message.get("more_body", False) and self._owed >= limits.BODY_FIRST_BYTES // 2:
            wider = limits.BODY_WINDOW_BYTES - limits.BODY_FIRST_BYTES if self._first else 0
            await self._send({"type": GRANT, "bytes": self._owed + wider})
            self._owed, self._first = 0, False
        return message
