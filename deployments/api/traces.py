"""`/v1/traces`: how earlier requests came to their answers, and what other settings would have made of them."""

from __future__ import annotations

import time
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from symmoe.policy import AUTO, Aggregate, Model, policy_for
from symmoe.types import Candidate, Message, Query, Refusal, Sampling, to_json
from symmoe.wire.sampling import Text

from ..access.keys import Caller
from ..errors import ApiError
from ..orchestrator import Again
from ..telemetry.trace_store import KeptTraces, Sought
from .admin import Admin
from .body import read_body
from .docs_page import json_body, query_parameters
from .service import Service

_TRACES = "/v1/traces"
_MOST_RAN = 500
Name = Field(default=None, max_length=200)


class _Searched(BaseModel):
    """What traces are searched for by; `since` and `before` are seconds since 1970."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: Text | None = Name
    expert: Text | None = Name
    skill: Text | None = Name
    outcome: Text | None = Name
    model: Text | None = Name
    batch: Text | None = Name
    key: Text | None = Name
    since: float | None = Field(default=None, ge=0, le=1e11)
    before: float | None = Field(default=None, ge=0, le=1e11)
    limit: int = Field(default=50, ge=1, le=500)


class _Span(BaseModel):
    """How far back it goes, and of which batch alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: int = Field(default=60, ge=1, le=86_400)
    batch: Text | None = Name


class WhatIf(BaseModel):
    """The settings to change; those left out stay as in the trace's model."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    k: int | None = Field(default=None, ge=1, le=64)
    without: list[Text] = Field(default=[], max_length=64)
    recruiter: Literal["symmoe", "published", "published-code"] | None = None
    quality: float | None = Field(default=None, ge=0, le=1)
    aggregate: Aggregate | None = None
    model: Text | None = Name


def trace_paths(app: FastAPI, service: Service) -> None:
    """Register these paths. A plain key sees only its own traces, an admin's all."""
    admin = Admin(service)

    @app.get(_TRACES, openapi_extra=query_parameters(_Searched), response_model=None)
    async def search(request: Request) -> Response:
        """Traces in short, the newest first."""
        caller, store = await service.caller(request), _kept(service)
        query = _Searched.model_validate(dict(request.query_params))
        key = query.key if caller.admin else caller.id
        names = {name: getattr(query, name) for name in ("expert", "skill", "outcome", "model", "batch", "since")}
        sought = Sought(key=key, ident=query.id, till=query.before, **names)
        rows = await store.search(sought, query.limit + 1)
        if not caller.admin and query.key not in (None, caller.id):
            rows = []
        page = rows[: query.limit]
        document = {"object": "list", "data": page, "has_more": len(rows) > len(page), "texts": store.texts}
        return JSONResponse(document)

    @app.get("/v1/admin/timeline", openapi_extra=query_parameters(_Span), response_model=None)
    async def timeline(request: Request) -> Response:
        """What each expert loaded and generated within the last seconds, or for a batch, as kept traces have it."""
        await admin.check(request)
        query = _Span.model_validate(dict(request.query_params))
        now = time.time()
        data = await _kept(service).ran(Sought(since=now - query.seconds, batch=query.batch), _MOST_RAN)
        return JSONResponse({"object": "list", "from": now - query.seconds, "to": now, "data": data})

    @app.get(f"{_TRACES}/{{ident}}", response_model=None)
    async def one(request: Request, ident: str) -> Response:
        """A whole trace, by its id or by its request's (`x-request-id`)."""
        return JSONResponse(await _own(service, await service.caller(request), ident))

    @app.post(f"{_TRACES}/{{ident}}/what-if", openapi_extra=json_body(WhatIf), response_model=None)
    async def what_if(request: Request, ident: str) -> Response:
        """What other settings would have made of it by what experts answered then. Nobody is asked."""
        caller = await service.caller(request)
        headers = await service.admitted(caller)
        body = await read_body(request, WhatIf, service.settings.most_bytes)
        trace = await _own(service, caller, ident)
        return JSONResponse(await _looked_back(service, trace, body), headers=headers)


def _kept(service: Service) -> KeptTraces:
    if service.telemetry.kept is None:
        raise ApiError(404, "traces_off", "this service keeps no traces; serve with `--traces metadata` or `text`")
    return service.telemetry.kept


async def _own(service: Service, caller: Caller, ident: str) -> dict[str, Any]:
    """The caller's trace of that id; `ApiError` 404 for any other."""
    trace = await _kept(service).find(ident, None if caller.admin else caller.id)
    if trace is None:
        raise ApiError(404, "trace_not_found", "no such trace: it was not kept, has expired, or gave way to newer ones")
    return trace


async def _looked_back(service: Service, trace: dict[str, Any], body: WhatIf) -> dict[str, Any]:
    traces = trace.get("symmoe", {}).get("traces", [])
    if not trace["texts"] or not trace["messages"] or not traces:
        message = "this trace holds no texts to look back on; those do that are kept with `--traces text`"
        raise ApiError(409, "trace_without_texts", message)
    # of a model that is gone since, and of a named expert's trace, only the question is of use
    model: Model | str = service.model(body.model or trace["model"]) if body.model or trace["model"] else AUTO
    policy = policy_for(service.pool, model, body.k, None, body.aggregate, body.quality).excluding(tuple(body.without))
    messages = tuple(Message(each["role"], each.get("content", "")) for each in trace["messages"])
    query = Query("0", messages, Sampling(1))
    result = await service.again(query, policy, [_candidate(each) for each in traces[0]["candidates"]], body.recruiter)
    return _told(result)


def _candidate(row: dict[str, Any]) -> Candidate:
    names = ("expert", "slot", "text", "finish_reason", "prompt_tokens", "completion_tokens", "lane", "shared")
    return Candidate(query_id="0", **{name: row[name] for name in names})


def _told(again: Again) -> dict[str, Any]:
    routed, result = again.routed, again.result
    answer = None if isinstance(result, Refusal) else to_json(result.answer)
    return {
        "object": "symmoe.what_if",
        "path": routed.way,
        "shares": dict(routed.recruitment.shares),
        "asked": [assignment.expert for assignment in routed.asked],
        "missing": list(again.missing),
        "complete": not again.missing,
        "answer": answer,
        "posterior": None if isinstance(result, Refusal) else result.posterior,
        "refused": result.message if isinstance(result, Refusal) else None,
        "explanation": to_json(routed.explanation) if routed.explanation else None,
    }
