"""What every request passes through: a name, a bound on how many are open, and an envelope around every failure."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..telemetry.note import Note
from ..telemetry.telemetry import Telemetry
from .errors import ApiError, error_response, internal_error
from .metrics import Metrics

_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)
_ALWAYS = ("/health", "/ready", "/metrics")
_READ = (b"x-request-id", b"traceparent", b"tracestate")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Open:
    """Counts the requests that are open, and knows whether more may come."""

    def __init__(self, most: int, changed: Callable[[int], None]) -> None:
        self._most, self._changed = most, changed
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()
        self.draining = False

    def enter(self) -> None:
        """One more. Raises `ApiError` if there are enough, or the service is stopping."""
        if self.draining:
            raise ApiError(503, "stopping", "the service is stopping", retry_after=5)
        if self._count >= self._most:
            raise ApiError(429, "overloaded", "too many requests are open", retry_after=1)
        self._add(1)

    def leave(self) -> None:
        """One less."""
        self._add(-1)

    async def drained(self, seconds: float) -> bool:
        """Let nobody else in; whether all are finished within so many seconds."""
        self.draining = True
        try:
            await asyncio.wait_for(self._none.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _add(self, one: int) -> None:
        self._count += one
        self._changed(self._count)
        self._none.clear() if self._count else self._none.set()


class Gate:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, opened: Open, metrics: Metrics, telemetry: Telemetry) -> None:
        self._app, self._open, self._metrics, self._telemetry = app, opened, metrics, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passing = _Passing(scope, send, self._metrics)
        if scope["path"] in _ALWAYS:
            await self._guarded(passing, receive)
            return
        try:
            await self._counted(passing, receive)
        finally:
            self._telemetry.over(passing.note)

    async def _counted(self, passing: _Passing, receive: Receive) -> None:
        try:
            self._open.enter()
        except ApiError as error:
            passing.note.code = error.code
            await error_response(error)(passing.scope, receive, passing.send)
            return
        try:
            await self._guarded(passing, receive)
        finally:
            self._open.leave()

    async def _guarded(self, passing: _Passing, receive: Receive) -> None:
        """Whatever is raised within becomes an envelope, as long as nothing was sent."""
        try:
            await self._app(passing.scope, receive, passing.send)
        except Exception as unforeseen:
            if passing.began:
                raise
            error = internal_error(unforeseen, "something went wrong here; it was not your request's fault")
            passing.note.code = error.code
            await error_response(error)(passing.scope, receive, passing.send)


class _Passing:
    """One request on its way through."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics) -> None:
        given = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ}
        wished = given.pop(b"x-request-id", "")
        self.name = wished if _NAME.fullmatch(wished) else secrets.token_hex(12)
        parents = {name.decode(): value for name, value in given.items()}
        self.note = Note(self.name, scope["method"] if scope["method"] in _METHODS else "other", "other", parents)
        self.scope = {**scope, "state": {**scope.get("state", {}), "request_id": self.name, "note": self.note}}
        self.began = False
        self._send, self._metrics = send, metrics

    async def send(self, message: Message) -> None:
        """Send on, under the request's name."""
        if message["type"] == "http.response.start":
            self.began = True
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self.name.encode())]}
            route = self.scope.get("route")
            self.note.endpoint, self.note.status = getattr(route, "path", "other"), message["status"]
            self._metrics.answered(self.note.endpoint, message["status"])
        await self._send(message)
