"""The checks that every request passes before its body is read, and the error format around every failure.

They give the request an id, check the host it was sent to and its key, and limit how many requests are open.
"""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from symmoe import limits

from ..access.keys import NOBODY, key_in
from ..door.body import GRANTING, Granting, Paced, check_bodiless
from ..door.proxy import NAME
from ..errors import ApiError, error_response, internal_error
from ..telemetry.note import Note
from .hosts import check_host
from .metrics import Metrics
from .open_requests import Online, Open
from .service import Service

_UNASKED = ("/health", "/ready")
_ALWAYS = (*_UNASKED, "/metrics")
_OPEN = (*_ALWAYS, "/version", "/docs", "/openapi.json")
"""What everybody may see who may ask this service at all: browsers send no key with them."""
_MODELS = "/v1/models"
_READ = (b"x-request-id", b"traceparent", b"tracestate", b"authorization", b"x-api-key")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class CutShortError(Exception):
    """A failure after the response had begun. Its message is not passed on: it may hold a prompt."""


class RequestMiddleware:
    """The outermost layer of the application; `online` counts the requests that it lets through."""

    def __init__(self, app: ASGIApp, service: Service, online: Online) -> None:
        self._app, self._service, self._online = app, service, online
        self._models = Open(limits.MODELS_OPEN, max(1, round(limits.MODELS_OPEN * service.settings.key_share)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Whatever is raised within becomes an error response, as long as nothing was sent."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            passing = _Passing(scope, receive, send, self._service.metrics)
            try:
                await self._admitted(passing)
            except ApiError as error:
                await passing.refuse(error)
            except Exception as unforeseen:
                if passing.over:
                    return
                server_error = internal_error(unforeseen)
                if passing.began:
                    passing.note.code = server_error.code
                    raise CutShortError from None
                await passing.refuse(server_error)
            finally:
                if passing.scope["path"] not in _ALWAYS:
                    self._service.telemetry.finish(passing.note)

    async def _admitted(self, passing: _Passing) -> None:
        """Have the request answered, if it may be."""
        path = passing.scope["path"]
        check_bodiless(passing.scope)
        if path in _UNASKED:
            await self._app(passing.scope, passing.receive, passing.send)
            return
        if not self._service.asks_for_keys:
            check_host(passing.scope["headers"], self._service.settings.hosts, self._service.settings.origins)
        if path in _OPEN or passing.scope["method"] == "OPTIONS":
            await self._app(passing.scope, passing.receive, passing.send)
            return
        caller = await self._service.known(passing.key, passing.note)
        passing.scope["state"]["caller"] = caller
        key = "" if caller.id == NOBODY else caller.id
        places = self._models if path == _MODELS or path.startswith(f"{_MODELS}/") else self._service.open
        try:
            places.enter(key)
        except ApiError:
            self._service.metrics.refused("open")
            raise
        try:
            with self._online.counted(path):
                await self._app(passing.scope, passing.receive, passing.send)
        finally:
            places.leave(key)
            if passing.scope["state"].pop("large", False):
                self._service.large.leave(key)


class _Passing:
    """One request on its way through. `began` and `over` say how far its answer is."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, metrics: Metrics) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ}
        request_id = headers.pop(b"x-request-id", "")
        self.name = request_id if NAME.fullmatch(request_id) else secrets.token_hex(12)
        self.key = key_in({name.decode(): value for name, value in headers.items()})
        parents = {name.decode(): value for name, value in headers.items() if name.startswith(b"trace")}
        self.note = Note(self.name, scope["method"] if scope["method"] in _METHODS else "other", "other", parents)
        self._head = scope["method"] == "HEAD"
        state = {**scope.get("state", {}), "request_id": self.name, "note": self.note}
        method, path = "GET" if self._head else scope["method"], scope["path"].rstrip("/") or "/"
        self.scope = {**scope, "method": method, "path": path, "state": state}
        paced = Paced(receive)
        self.receive: Receive = Granting(paced, send) if GRANTING in scope.get("extensions", {}) else paced
        self.began = self.over = False
        self._send, self._metrics = send, metrics

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error."""
        self.note.code = error.code
        await error_response(error, self.scope["path"], self.name)(self.scope, self.receive, self.send)

    async def send(self, message: Message) -> None:
        """Send on, under the request's name."""
        if message["type"] == "http.response.start":
            self.began = True
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self.name.encode())]}
            route = self.scope.get("route")
            self.note.endpoint, self.note.status = getattr(route, "path", "other"), message["status"]
            self._metrics.answered(self.note.endpoint, message["status"])
        elif message["type"] == "http.response.body":
            self.over = not message.get("more_body", False)
            if self._head:
                message = {**message, "body": b""}
        await self._send(message)
