"""What the paths do: check who asks and what, have it answered, and say how it went."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from symmoe.config import Pool
from symmoe.types import Sampling

from ..catalogue import Model, catalogue, choosing
from ..experts import Experts
from ..orchestrator import Orchestrator, Order, Report, Request
from ..settings import Settings
from ..storage import Storage
from .body import read_body
from .chat_request import ChatRequest, Question
from .completions import Envelope, streamed, whole
from .errors import ApiError
from .gate import Open
from .keys import Caller, Keys, bearer
from .metrics import Metrics
from .telling import explanation, headers


class Service:
    """The service behind the paths."""

    def __init__(
        self,
        pool: Pool,
        orchestrator: Orchestrator,
        experts: Experts,
        keys: Keys,
        settings: Settings,
        storage: Storage,
    ) -> None:
        self.metrics = Metrics()
        self.open = Open(settings.most_open, self.metrics.opened)
        self.models = catalogue(pool)
        self._pool, self._orchestrator, self._experts = pool, orchestrator, experts
        self._keys, self._settings, self._storage = keys, settings, storage
        self._created = int(time.time())
        self._routable = False

    async def caller(self, request: HttpRequest) -> Caller:
        """Who asks; `ApiError` for somebody who may not."""
        caller = await self._keys.caller(bearer(request.headers.get("authorization")))
        if caller is None:
            raise ApiError(401, "invalid_api_key", "no or an unknown API key; send it as `Authorization: Bearer KEY`")
        return caller

    def model(self, name: str) -> Model:
        """The model of that name; `ApiError` if there is none."""
        if name not in self.models:
            raise ApiError(404, "model_not_found", "no such model; GET /v1/models lists what there is", "model")
        return self.models[name]

    def described(self, name: str) -> dict[str, Any]:
        """A model in OpenAI's shape."""
        model = self.models[name]
        shape = {"id": name, "object": "model", "created": self._created, "owned_by": "symmoe"}
        return {**shape, "parent": model.parent, "description": model.description}

    async def readiness(self) -> str:
        """`ready`, `starting` or `stopping`."""
        if self.open.draining:
            return "stopping"
        if not self._routable:
            await self._orchestrator.router.warm()
            self._routable = True
        return "ready" if await self._experts.warm() else "starting"

    async def chat(self, http: HttpRequest) -> Response:
        """An answer, whole or streamed."""
        caller = await self.caller(http)
        body = await read_body(http, ChatRequest, self._settings.most_bytes)
        body.check(self._settings.most_choices)
        ident = secrets.token_hex(12)  # the request's own name is the client's, and two may share it
        order = self._order(body, ident, caller)
        request = await self._orchestrator.begin(order)
        counted = body.stream_options is not None and body.stream_options.include_usage
        envelope = Envelope.new(ident, body.model, counted, order.explain)
        if order.stream:
            return await self._stream(request, envelope)
        try:
            document = await whole(request, envelope)
        finally:
            await self._close(request)
        return JSONResponse(document, headers=headers(request.report))

    async def route(self, http: HttpRequest) -> Response:
        """Who would answer, and why."""
        await self.caller(http)
        body = await read_body(http, Question, self._settings.most_bytes)
        model = self.model(body.model)
        if model.expert is not None:
            raise ApiError(400, "invalid_value", "a named expert answers itself: there is nothing to route", "model")
        options = body.symmoe
        choice = choosing(self._pool, model.name, options.k, options.budget, options.aggregate)
        routed = await self._orchestrator.router.route(body.query(Sampling(1)), choice, True)
        report = Report(routed)
        told = explanation(report)
        kept = ("path", "skills", "facets", "shares", "recruited", "asked", "explanation")
        document = {"object": "symmoe.route", "model": model.name, **{name: told[name] for name in kept}}
        return JSONResponse(document, headers=headers(report))

    def _order(self, body: ChatRequest, ident: str, caller: Caller) -> Order:
        model, options = self.model(body.model), body.symmoe
        return Order(
            id=ident,
            query=body.query(body.sampling(self._pool.sampling)),
            key=caller.id,
            expert=model.expert,
            choice=choosing(self._pool, model.name, options.k, options.budget, options.aggregate),
            n=body.n or 1,
            stream=bool(body.stream),
            explain=options.explain,
            deadline=min(options.deadline or self._settings.deadline, self._settings.deadline),
        )

    async def _stream(self, request: Request, envelope: Envelope) -> Response:
        """A stream whose first piece is there: what fails before it has a status, and headers can tell of it."""
        events = request.events()
        try:
            first = await anext(events)
        except BaseException:
            await self._close(request)
            raise

        async def parts() -> AsyncIterator[bytes]:
            try:
                async for part in streamed(first, events, request, envelope):
                    yield part
            finally:
                await self._close(request)

        told = {**headers(request.report), "cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(parts(), media_type="text/event-stream", headers=told)

    async def _close(self, request: Request) -> None:
        await request.close()
        self.metrics.reported(request.report)
