"""The FastAPI application over an orchestrator: which path does what."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ..experts import TurnedAwayError
from .chat_request import ChatRequest, Question
from .completions import api_error
from .errors import ApiError, error_response
from .gate import Gate
from .service import Service


def application(service: Service) -> ASGIApp:
    """Every path of the service, and the gate around them."""
    app = FastAPI(title="symmoe", docs_url=None, redoc_url=None, redirect_slashes=False)
    _answering(app, service)
    _models(app, service)
    _looking(app, service)
    _failing(app)
    return Gate(app, service.open, service.metrics)


def _answering(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", openapi_extra=_body(ChatRequest), response_model=None)
    async def chat(request: Request) -> Response:
        """An answer, whole or streamed."""
        return await service.chat(request)

    @app.post("/v1/route", openapi_extra=_body(Question), response_model=None)
    async def route(request: Request) -> Response:
        """Who would answer, and why; nothing is generated."""
        return await service.route(request)


def _models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=None)
    async def models(request: Request) -> Response:
        """Every model."""
        await service.caller(request)
        return JSONResponse({"object": "list", "data": [service.described(name) for name in service.models]})

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

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _failing(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(TurnedAwayError)
    async def unserved(request: Request, error: TurnedAwayError) -> Response:
        return error_response(api_error(error.why))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        codes = {404: ("not_found", "no such path"), 405: ("method_not_allowed", "this path takes another method")}
        code, message = codes.get(error.status_code, ("invalid_request", str(error.detail)))
        response = error_response(ApiError(error.status_code, code, message))
        response.headers.update(error.headers or {})
        return response


def _body(model: type[Question]) -> dict[str, Any]:
    """A body's schema for the OpenAPI document: bodies are read here, not by FastAPI, which would not bound them."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
