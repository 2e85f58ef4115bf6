"""The FastAPI application over an orchestrator: all paths and what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import ASGIApp

from symmoe import __version__
from symmoe.errors import RequestError, StoreError
from symmoe.wire.chat import ChatRequest, Question, request_error

from ..errors import ApiError, error_response, internal_error
from ..events import TurnedAwayError
from .admin import admin_paths
from .batches import batch_paths
from .batching import Batching
from .completions import api_error
from .docs_page import POLICY, json_body, page
from .doors import door_paths
from .files import file_paths
from .keys import key_paths
from .middleware import RequestMiddleware
from .service import Service, noted
from .skills import skill_paths
from .traces import trace_paths
from .usage import usage_paths


def application(service: Service) -> ASGIApp:
    """The ASGI application: every path of the service, inside the middleware."""
    batching = Batching(service)
    app = FastAPI(
        title="symmoe",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_living(service, batching),
    )
    _answering(app, service)
    door_paths(app, service)
    _models(app, service)
    file_paths(app, service, batching)
    batch_paths(app, service, batching)
    admin_paths(app, service)
    key_paths(app, service)
    skill_paths(app, service)
    trace_paths(app, service)
    usage_paths(app, service)
    _looking(app, service)
    _failing(app)
    wrapped: ASGIApp = RequestMiddleware(app, service, batching.online)
    origins = list(service.settings.origins)
    if not origins:
        return wrapped
    symmoe_names = ("cache", "experts", "fallback", "hedged", "ignored", "path")
    exposed = ["retry-after", "x-request-id", *(f"x-symmoe-{name}" for name in symmoe_names)]
    return CORSMiddleware(wrapped, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=exposed)


def _living(service: Service, batching: Batching) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What goes on as long as the application does."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with (
                service.usage.writing(),
                batching.lifespan(app),
                service.living(),
                _tracing(service),
            ):
                yield
        finally:
            await service.storage.close()
            await asyncio.to_thread(service.telemetry.close)

    return living


def _tracing(service: Service) -> AbstractAsyncContextManager[None]:
    trace_store = service.telemetry.kept
    return nullcontext() if trace_store is None else trace_store.writing()


def _answering(app: FastAPI, service: Service) -> None:
    app.post("/v1/chat/completions", openapi_extra=json_body(ChatRequest), response_model=None)(service.chat)

    @app.post("/v1/route", openapi_extra=json_body(Question), response_model=None)
    async def route(request: Request) -> Response:
        """Who would answer, and why; nothing is generated."""
        return await service.route(request)


def _models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=None)
    async def models(request: Request) -> Response:
        """Every model."""
        await service.caller(request)
        data = [service.described(name) for name in service.models]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(request: Request, name: str) -> Response:
        """One model."""
        await service.caller(request)
        return JSONResponse(service.described(service.model(name).name))


def _looking(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=None)
    async def health() -> Response:
        """Whether this process lives."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", response_model=None)
    async def ready() -> Response:
        """Whether requests would be answered without delay; 503 while starting or stopping."""
        status = await service.readiness()
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @app.get("/version", response_model=None)
    async def version() -> Response:
        """Which symmoe this is."""
        return JSONResponse({"version": __version__})

    @app.get("/docs", response_model=None, include_in_schema=False)
    async def docs() -> Response:
        """What may be asked, for people."""
        return HTMLResponse(page(app.openapi()), headers={"content-security-policy": POLICY})

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(await service.scraped(), media_type=CONTENT_TYPE_LATEST)


def _failing(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        noted(request).code = error.code
        return failure(request, error)

    @app.exception_handler(TurnedAwayError)
    async def unserved(request: Request, error: TurnedAwayError) -> Response:
        noted(request).code = error.why.code
        return failure(request, api_error(error.why))

    @app.exception_handler(StoreError)
    async def storeless(request: Request, error: StoreError) -> Response:
        noted(request).code = "store_unavailable"
        return failure(request, ApiError(503, "store_unavailable", "the store does not answer just now", retry_after=1))

    @app.exception_handler(ValidationError)
    async def unfit(request: Request, error: ValidationError) -> Response:
        """Parameters of a path, or a body, that do not fit."""
        client_error = request_error(error)
        noted(request).code = client_error.code
        return failure(request, client_error)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            allow = ", ".join(_methods(app, request))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers={"allow": allow})
            error.headers = {"allow": allow}
        codes = {404: ("not_found", "no such path"), 405: ("method_not_allowed", "this path takes another method")}
        code, message = codes.get(error.status_code, ("invalid_request", str(error.detail)))
        noted(request).code = code
        response = failure(request, ApiError(error.status_code, code, message))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        """Starlette's own answer would be plain text. It raises the error again, and the middleware catches it."""
        server_error = internal_error(error)
        noted(request).code = server_error.code
        return failure(request, server_error)


def failure(request: Request, error: RequestError) -> Response:
    """An error in the format of the path's API: OpenAI's or Anthropic's."""
    return error_response(error, request.scope["path"], request.state.request_id)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Those that a path takes."""
    matching = (route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE)
    methods = {method for route in matching for method in getattr(route, "methods", None) or ()}
    return sorted(methods | {"OPTIONS", *(["HEAD"] if "GET" in methods else [])})
