"""The layer around the application that serves the console's files, and turns its cookie into the request's key.

Pages use the same paths as every client. What a browser sends by itself does not prove that our page asks: a request
with the cookie must also carry a header that no other site's page may send, and come from this origin.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from symmoe.errors import RequestError

from ..api.body import read_body
from ..api.hosts import check_host
from ..api.service import Service
from ..door.body import Paced
from ..errors import ApiError, error_response, internal_error
from ..telemetry.note import Note

COOKIE, MARK = "symmoe_key", "x-symmoe-console"
_HERE, _SESSION = "/console", "/console/session"
_SECONDS = 12 * 3600
_MOST_BYTES = 4096
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_ALWAYS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class LogIn(BaseModel):
    """A key, as it was shown when it was created."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: str = Field(min_length=1, max_length=200)


@dataclass(frozen=True)
class Asset:
    """A file of the pages."""

    name: str
    content: bytes

    @cached_property
    def packed(self) -> bytes:
        """The gzipped content."""
        return gzip.compress(self.content, 9, mtime=0)

    @cached_property
    def tag(self) -> str:
        """The entity tag, which identifies this version."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'

    def response(self, request: Request) -> Response:
        """The file, unless the client has it."""
        headers = {**_ALWAYS, "etag": self.tag, "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        headers["content-type"] = _KINDS[self.name.rpartition(".")[2]]
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers={**headers, "content-encoding": "gzip"})
        return Response(self.content, headers=headers)


class Console:
    """Wraps a service's application `app`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        entries = sorted(files(__package__).joinpath("assets").iterdir(), key=lambda each: each.name)
        assets = (Asset(each.name, each.read_bytes()) for each in entries if each.name.rpartition(".")[2] in _KINDS)
        self._assets = {f"{_HERE}/{asset.name}": asset for asset in assets}
        self._assets[_HERE] = self._assets.pop(f"{_HERE}/index.html")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests for the console, and pass on all others."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (path := scope["path"].rstrip("/")) == _HERE or path.startswith(f"{_HERE}/"):
            request = Request(scope, Paced(receive))
            await (await self._answered(request, path))(scope, receive, send)
        else:
            try:
                keyed_scope = _with_key(scope)
            except ApiError as error:
                await error_response(error, scope["path"])(scope, receive, send)
                return
            await self._app(keyed_scope, receive, send)

    async def _answered(self, request: Request, path: str) -> Response:
        try:
            return await self._answer(request, path)
        except RequestError as error:
            return error_response(error)
        except Exception as unforeseen:
            return error_response(internal_error(unforeseen))

    async def _answer(self, request: Request, path: str) -> Response:
        if not self._service.asks_for_keys:
            check_host(request.scope["headers"], self._service.settings.hosts, self._service.settings.origins)
        if path == _SESSION:
            return await self._session(request)
        asset = self._assets.get(path)
        if asset is None:
            raise ApiError(404, "not_found", "no such page; the console is at /console")
        if request.method not in ("GET", "HEAD"):
            raise ApiError(405, "method_not_allowed", "this path takes another method", headers={"allow": "GET, HEAD"})
        response = asset.response(request)
        if request.method == "HEAD":
            response.body = b""
        return response

    async def _session(self, request: Request) -> Response:
        """Put a good key into the cookie, or take it out."""
        if request.method not in ("POST", "DELETE"):
            raise ApiError(
                405, "method_not_allowed", "this path takes another method", headers={"allow": "POST, DELETE"}
            )
        _check_origin(request)
        response = JSONResponse({"object": "symmoe.session"}, headers={"cache-control": "no-store"})
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        if request.method == "DELETE":
            response.delete_cookie(COOKIE, path="/", secure=secure, httponly=True, samesite="strict")
            return response
        key = (await read_body(request, LogIn, _MOST_BYTES)).key.strip()
        await self._service.known(key, Note(""))
        response.set_cookie(COOKIE, key, _SECONDS, path="/", secure=secure, httponly=True, samesite="strict")
        return response


def _with_key(scope: Scope) -> Scope:
    """A request with the cookie's key where it brings none of its own. `ApiError` for one that another site sent."""
    request = Request(scope)
    if "cookie" not in request.headers or "authorization" in request.headers or "x-api-key" in request.headers:
        return scope
    try:
        cookie = SimpleCookie(request.headers["cookie"]).get(COOKIE)
    except CookieError:
        return scope
    if cookie is None or not cookie.value.isascii():
        return scope
    _check_origin(request)
    return {**scope, "headers": [*scope["headers"], (b"authorization", b"Bearer " + cookie.value.encode())]}


def _check_origin(request: Request) -> None:
    """`ApiError` for what a page of the console did not send, or may not have."""
    headers = request.headers
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    same_origin = origin is None or urlsplit(origin).netloc == headers.get("host")
    marked = MARK in headers and (origin is not None or request.method in ("GET", "HEAD"))
    if not (same_origin and marked and site == "same-origin"):
        raise ApiError(403, "cross_site", "this was not sent by a page of the console")
