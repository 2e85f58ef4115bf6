"""The layer around Ray Serve's proxy, in its process: Ray Serve asks for it as `CALLBACK` says.

The proxy would take in whatever comes as fast as it comes, obey headers that are not for clients, and tell of its own
failures in plain text.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ApiError, error_response, internal_error
from .body import GRANT, GRANTING, Paced, Window, check_bodiless
from .connection import PASSED_ON, Connection

NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)
"""What a client may call its request."""
OBEYED = ("x_request_timeout_seconds", "x_request_disconnect_disabled", "serve_multiplexed_model_id", "x_session_id")
"""Headers by which Ray Serve lets clients change how it treats a request, written with `_` for `-`."""
_OBEYED_ALL = "x_serve_"
_ITS_OWN = "/-/"
_TOLD = {
    404: ("not_found", "no such path"),
    408: ("deadline_exceeded", "the request was not finished in time"),
    429: ("overloaded", "too many requests are open"),
    503: ("unavailable", "the service cannot be reached just now"),
}


def middlewares() -> list[Middleware]:
    """What Ray Serve puts around its proxy. The server that it starts next takes connections as `Connection` has it."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{Connection.__module__}:{Connection.__qualname__}"
    return [Middleware(Door)]


class Door:
    """The outermost layer of the proxy.

    While the proxy is being drained, answers end their connections: clients come back by others, which lead elsewhere.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._drains = _draining(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the proxy; WebSockets are closed with 1008."""
        if scope["type"] == "http":
            await _Passing(scope, receive, send, self._drains).through(self._app)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)


class _Passing:
    """One request on its way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, drains: Callable[[], bool]) -> None:
        self._name, self._drains = _name(scope), drains
        headers = [*filter(_is_for_us, scope["headers"]), (b"x-request-id", self._name)]
        extensions = {**scope.get("extensions", {}), GRANTING: {}}
        self._scope = {**scope, "headers": headers, "extensions": extensions}
        self._window = Window(Paced(receive))
        self._first: deque[Message] = deque()
        self._at_uvicorn = scope
        self._send = send
        self._error: ApiError | None = None
        self._began = self._left = False

    async def through(self, app: ASGIApp) -> None:
        """Pass it on to the proxy. What goes wrong there, or with the body, is told in the envelope."""
        try:
            check_bodiless(self._scope)
            if await self._begun():
                self._at_uvicorn[PASSED_ON] = True
                await app(self._scope, self._receive, self._sent)
        except ApiError as error:
            self._error = error
        except Exception as unforeseen:
            self._error = internal_error(unforeseen)
        if self._began or self._left:
            return  # an answer that was cut short ends with its connection
        failure = self._error or ApiError(500, "internal_error", "the service gave no answer")
        answer = error_response(failure, self._scope["path"], self._name.decode())
        await answer(self._scope, self._receive, self._marked)

    async def _begun(self) -> bool:
        """Wait for the body, or as much of it as may come before anybody reads it. False: the client left.

        Ray Serve spends 100 KiB in each of two processes on a request that it knows of; one that waits here takes a
        few, and no place of its key.
        """
        while self._window.open:
            self._first.append(await self._window())
            if self._first[-1]["type"] == "http.disconnect":
                self._left = True
                return False
            if not self._first[-1].get("more_body", False):
                break
        return True

    async def _receive(self) -> Message:
        if self._first:
            return self._first.popleft()
        try:
            message = await self._window()
        except ApiError as error:  # the proxy gives the request up at this, and we say why
            self._error = error
            return {"type": "http.disconnect"}
        self._left = message["type"] == "http.disconnect"
        return message

    async def _sent(self, message: Message) -> None:
        if message["type"] == GRANT:
            self._window.grant(message["bytes"])
            return
        if message["type"] == "http.response.start" and not self._began:
            self._error = self._error or self._of_the_proxy(message)
        if self._error is None or self._began:
            await self._marked(message)

    async def _marked(self, message: Message) -> None:
        """Send on, under the request's name."""
        if message["type"] == "http.response.start":
            self._began = True
            headers = [(name, value) for name, value in message["headers"] if bytes(name).lower() != b"x-request-id"]
            headers += [(b"connection", b"close")] if self._drains() else []
            message = {**message, "headers": [*headers, (b"x-request-id", self._name)]}
        await self._send(message)

    def _of_the_proxy(self, message: Message) -> ApiError | None:
        """The error that an answer in plain text is: none of the application's is so."""
        headers = {bytes(name).lower(): bytes(value) for name, value in message["headers"]}
        plain = headers.get(b"content-type", b"").startswith(b"text/plain")
        if message["status"] < 400 or not plain or self._scope["path"].startswith(_ITS_OWN):
            return None
        code, text = _TOLD.get(message["status"], ("internal_error", "something went wrong here"))
        return ApiError(message["status"], code, text, retry_after=1 if message["status"] in (429, 503) else None)


def _draining(app: Any) -> Callable[[], bool]:
    """Of Ray Serve's proxy, below the layers around it, whether it is being drained."""
    while not hasattr(app, "_is_draining"):
        app = getattr(app, "_app", None)
        if app is None:
            return lambda: False
    return lambda: bool(app._is_draining())


def _name(scope: Scope) -> bytes:
    request_id = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
    return (request_id if NAME.fullmatch(request_id) else secrets.token_hex(12)).encode()


def _is_for_us(header: tuple[bytes, bytes]) -> bool:
    """Whether a header is passed on. Ray Serve reads names as UTF-8, and fails at others."""
    if not header[0].isascii():
        return False
    name = header[0].decode().lower().replace("-", "_")
    return name not in (*OBEYED, "x_request_id") and not name.startswith(_OBEYED_ALL)
