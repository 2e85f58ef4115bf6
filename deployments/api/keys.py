"""`/v1/admin/keys`: the keys, as in `symmoe key`; and `/v1/key`: what the caller's own key may do."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from symmoe.errors import ConfigError
from symmoe.wire.sampling import Text

from ..access.keys import BudgetPer, KeyRecord, add, checked_name, everyone, new_id, new_key, revoke, rotate
from ..errors import ApiError
from .admin import Admin
from .body import read_body
from .docs_page import json_body
from .service import Service

_KEYS = "/v1/admin/keys"
_DAY, _HOUR = 86_400.0, 3600.0


class NewKey(BaseModel):
    """A key to create. A null limit means no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Text = Field(min_length=1, max_length=100)
    scope: str = Field(default="ask", pattern="^(ask|admin)$")
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**9)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    budget: float | None = Field(default=None, ge=0, le=1e12)
    budget_per: BudgetPer = "month"
    expires_days: float | None = Field(default=None, ge=0.001, le=36_500)


class Rotation(BaseModel):
    """How a key is replaced: for so many hours the old one stays valid beside the new one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    overlap_hours: float = Field(default=24, ge=0, le=8_760)


def key_paths(app: FastAPI, service: Service) -> None:
    """Register these paths."""
    admin = Admin(service)

    @app.get("/v1/key", response_model=None)
    async def own(request: Request) -> Response:
        """Who asks: the key's id, what it may, and its limits."""
        caller = await service.caller(request)
        scope = "admin" if caller.admin else "ask"
        document: dict[str, Any] = {"object": "symmoe.key", "id": caller.id, "scope": scope}
        for name in ("requests_per_minute", "tokens_per_minute", "budget"):
            document[name] = getattr(caller, name)
        document["budget_per"] = None if caller.budget is None else caller.budget_per
        return JSONResponse(document)

    @app.get(_KEYS, response_model=None)
    async def keys(request: Request) -> Response:
        """Every key by its id; the keys themselves are known to nobody here."""
        await admin.check(request)
        now = time.time()
        data = [{"object": "symmoe.key", **record.facts(now)} for record in await everyone(service.patient)]
        return JSONResponse({"object": "list", "data": data, "required": service.asks_for_keys})

    @app.post(_KEYS, openapi_extra=json_body(NewKey), response_model=None)
    async def create(request: Request) -> Response:
        """A new key, shown this once."""
        await admin.check(request)
        body = await read_body(request, NewKey, service.settings.most_bytes)
        try:
            name = checked_name(body.name)
        except ConfigError as error:
            raise ApiError(400, "invalid_value", f"name: {error}", "name") from error
        now, key = time.time(), new_key()
        ends = None if body.expires_days is None else now + body.expires_days * _DAY
        limits, budget = (body.requests_per_minute, body.tokens_per_minute), (body.budget, body.budget_per)
        record = KeyRecord(new_id(), name, now, ends, None, *limits, body.scope == "admin", *budget)
        await add(service.patient, key, record)
        return _shown(record, key, now)

    @app.post(f"{_KEYS}/{{ident}}/rotate", openapi_extra=json_body(Rotation), response_model=None)
    async def replace(request: Request, ident: str) -> Response:
        """A new key in another's place, shown this once: files, batches, usage and limits stay with their owner."""
        await admin.check(request)
        body = await read_body(request, Rotation, service.settings.most_bytes)
        now, key = time.time(), new_key()
        record = await rotate(service.patient, ident, key, now, body.overlap_hours * _HOUR)
        return _shown(_known(record), key, now)

    @app.delete(f"{_KEYS}/{{ident}}", response_model=None)
    async def remove(request: Request, ident: str) -> Response:
        """A key is revoked for good; services refuse it within a second or two."""
        await admin.check(request)
        now = time.time()
        record = _known(await revoke(service.patient, ident, now))
        return JSONResponse({"object": "symmoe.key", **record.facts(now)})


def _known(record: KeyRecord | None) -> KeyRecord:
    if record is None:
        raise ApiError(404, "key_not_found", "no key has that id; GET /v1/admin/keys lists them")
    return record


def _shown(record: KeyRecord, key: str, now: float) -> Response:
    """A new key, which nobody keeps on the way."""
    document = {"object": "symmoe.key", **record.facts(now), "key": key}
    return JSONResponse(document, 201, headers={"cache-control": "no-store"})
