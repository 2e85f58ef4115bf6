"""`/v1/admin/experts`: the experts, changed while the service runs. For admin keys, or anybody on loopback."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from symmoe.config import ExpertConfig
from symmoe.errors import StoreError, SymmoeError
from symmoe.wire.sampling import Text

from ..errors import ApiError
from ..events import EngineState
from ..lifecycle.roster import State, joining
from .body import read_body
from .docs_page import json_body
from .service import Service

_STATES: dict[str, State] = {"drain": "draining", "quarantine": "quarantined", "restore": "active"}
_EXPERTS = "/v1/admin/experts"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Joining(_Body):
    """An expert as in a pool file, and its record as in a file of profiles."""

    expert: ExpertConfig
    record: dict[str, Any] | None = None


class Reason(_Body):
    """The reason for a change, for later readers."""

    why: Text = Field(default="", max_length=500)


def admin_paths(app: FastAPI, service: Service) -> None:
    """Register these paths."""
    admin = Admin(service)

    @app.get(_EXPERTS, response_model=None)
    async def experts(request: Request) -> Response:
        """Every expert, and what the engines are at."""
        await admin.check(request)
        return JSONResponse(await admin.everybody())

    @app.post(_EXPERTS, openapi_extra=json_body(Joining), response_model=None)
    async def add(request: Request) -> Response:
        """A new expert; it can be asked when this returns."""
        await admin.check(request)
        body = await read_body(request, Joining, service.settings.most_bytes)
        return JSONResponse(await admin.add(body), 201)

    @app.post(f"{_EXPERTS}/{{name}}/{{action}}", openapi_extra=json_body(Reason), response_model=None)
    async def change(request: Request, name: str, action: str) -> Response:
        """Let an expert take nothing new, ask it nothing any more, or bring it back."""
        await admin.check(request)
        if action not in _STATES:
            raise ApiError(404, "not_found", "no such path; an expert can be drained, quarantined or restored")
        body = await read_body(request, Reason, service.settings.most_bytes)
        return JSONResponse(await admin.put(name, _STATES[action], body.why))

    @app.delete(f"{_EXPERTS}/{{name}}", response_model=None)
    async def remove(request: Request, name: str) -> Response:
        """An expert is there no longer; what it was asked already it finishes."""
        await admin.check(request)
        await admin.put(name, "removed", "")
        return JSONResponse({"object": "symmoe.expert", "name": name, "deleted": True})


class Admin:
    """The operations behind the paths."""

    def __init__(self, service: Service) -> None:
        self._service, self._lifecycle = service, service.lifecycle

    async def check(self, request: Request) -> None:
        """Raise `ApiError` (403) for a caller who is no admin."""
        caller = await self._service.caller(request)
        if not caller.admin:
            raise ApiError(403, "not_admin", "this needs a key that `symmoe key create --scope admin` made")

    async def everybody(self) -> dict[str, Any]:
        """All experts, and the engines."""
        engines = await self._service.engines()
        opened = self._lifecycle.experts.open
        counted = self._service.metrics.of_experts()
        data = [{**self._described(name, opened.get(name, 0)), **counted.get(name, {})} for name in self._names()]
        return {"object": "list", "data": data, "engines": [shown(engine) for engine in engines]}

    async def add(self, body: Joining) -> dict[str, Any]:
        """Add an expert. Raises `ApiError` and `StoreError`."""
        roster, name = self._lifecycle.roster, body.expert.name
        if roster.has(name) is not None:
            message = f"there is an expert {name!r} already; remove or restore it, or take another name"
            raise ApiError(409, "expert_exists", message, "expert.name")
        folder = self._service.settings.weights_folder
        try:
            decision = await asyncio.to_thread(joining, roster.pool, body.expert, body.record, folder)
        except StoreError:
            raise
        except SymmoeError as error:
            hint = f" ({error.hint})" if error.hint else ""
            raise ApiError(400, "invalid_expert", f"{error}{hint}", "expert") from error
        await self._lifecycle.add(name, decision)
        return self._described(name, 0)

    async def put(self, name: str, state: State, why: str) -> dict[str, Any]:
        """Change the state of an expert. Raises `ApiError` and `StoreError`."""
        roster = self._lifecycle.roster
        removed = name in roster.decisions and roster.state(name) == "removed"
        if roster.has(name) is None or (removed and state != "active"):
            raise ApiError(404, "expert_not_found", "no such expert; GET /v1/admin/experts lists them", "name")
        if state == "removed" and len(roster.pool.experts) == 1:
            raise ApiError(409, "last_expert", "this is the last expert: quarantine it, or stop the service", "name")
        await self._lifecycle.put(name, state, why)
        return self._described(name, self._lifecycle.experts.open.get(name, 0))

    def _names(self) -> list[str]:
        """Also of those that were removed and can be restored."""
        roster = self._lifecycle.roster
        return list(dict.fromkeys((*roster.pool.names, *sorted(roster.decisions))))

    def _described(self, name: str, opened: int) -> dict[str, Any]:
        roster = self._lifecycle.roster
        decision = roster.decision(name)
        newcomer = roster.has(name) == "newcomer"
        state = roster.state(name)
        return {
            "object": "symmoe.expert",
            "name": name,
            "state": state,
            "why": decision.why if state != "active" else "",
            "since": decision.since or None,
            "until": decision.until if state != "active" else None,
            "added": newcomer,
            "routed": state == "active" and name not in roster.without,
            "open": opened,
            "failures": self._lifecycle.failures.count(name),
        }


def shown(engine: EngineState) -> dict[str, Any]:
    """An engine's state as JSON. Its counts are on the page of metrics."""
    return {name: value for name, value in asdict(engine).items() if name != "stats"}
