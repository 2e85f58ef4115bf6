"""`/v1/usage` and `/v1/admin/usage`: what keys used, and what that cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from symmoe.limits import USAGE_DAYS

from ..access.usage import BY, By, usage_between
from ..errors import ApiError
from .admin import Admin
from .service import Service

_USUAL_DAYS = 30


class _Asked(BaseModel):
    """Which days, and what is added up: each day of UTC counts as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: date = Field(default_factory=lambda: _today() - timedelta(days=_USUAL_DAYS - 1), alias="from")
    last: date = Field(default_factory=lambda: _today(), alias="to")
    by: list[By] = Field(default_factory=list, max_length=len(BY))

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 <= (self.last - self.first).days < USAGE_DAYS:
            raise ValueError(f"from and to are the first and the last of at most {USAGE_DAYS} days")
        return self


def usage_paths(app: FastAPI, service: Service) -> None:
    """Register these paths."""
    check = Admin(service).check

    @app.get("/v1/usage", response_model=None, openapi_extra=_PARAMETERS)
    async def own(request: Request) -> Response:
        """What the key that asks used, in all or by expert and day."""
        caller = await service.caller(request)
        return JSONResponse(await _usage(service, request, caller.id))

    @app.get("/v1/admin/usage", response_model=None, openapi_extra=_PARAMETERS)
    async def everybodys(request: Request) -> Response:
        """What all keys used, in all or by key, expert and day."""
        await check(request)
        return JSONResponse(await _usage(service, request, None))


async def _usage(service: Service, request: Request, key: str | None) -> dict[str, Any]:
    values: dict[str, Any] = dict(request.query_params)
    dimensions = [part for each in request.query_params.getlist("by") for part in each.split(",")]
    query = _Asked.model_validate({**values, "by": dimensions})
    if not service.usage.counts:
        raise ApiError(404, "not_counted", "usage is not counted by this service (`usage_seconds`)")
    await service.usage.write()
    by = list(dict.fromkeys(query.by))
    rows = await usage_between(service.patient, query.first, query.last, by, key)
    metadata = {"from": query.first.isoformat(), "to": query.last.isoformat(), "by": by, "currency": service.currency}
    return {"object": "symmoe.usage", **metadata, "data": rows}


def _today() -> date:
    return datetime.now(UTC).date()


_PARAMETERS = {
    "parameters": [
        *({"name": name, "in": "query", "schema": {"type": "string", "format": "date"}} for name in ("from", "to")),
        {
            "name": "by",
            "in": "query",
            "schema": {"type": "array", "items": {"type": "string", "enum": list(BY)}},
            "style": "form",
            "explode": False,
        },
    ]
}
