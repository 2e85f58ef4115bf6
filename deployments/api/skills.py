"""`/v1/admin/skills`: how good each expert is at each skill, where the pool is weak, and what changed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from symmoe.routing.tallies import interval
from symmoe.types import Profiles, Tally
from symmoe.wire.sampling import Text

from ..lifecycle.record_history import OVERALL, RecordChange
from ..telemetry.trace_store import Sought
from .admin import Admin
from .docs_page import query_parameters
from .service import Service

_LATELY = 1000
"""Traces that are looked through for whom routing chose."""


class _Sought(BaseModel):
    """Whose changes, on which skill (on none: over all), and until when, in seconds since 1970."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    expert: Text | None = Field(default=None, max_length=200)
    skill: Text | None = Field(default=None, max_length=200)
    before: float | None = Field(default=None, ge=0, le=1e11)
    limit: int = Field(default=200, ge=1, le=1000)


def skill_paths(app: FastAPI, service: Service) -> None:
    """Register these paths."""
    admin, matrix = Admin(service), _Matrix(service)

    @app.get("/v1/admin/skills", response_model=None)
    async def skills(request: Request) -> Response:
        """Every skill with each expert's accuracy on it, its 95 % interval, how many answers were counted, and who was
        chosen for it lately.
        """
        await admin.check(request)
        return JSONResponse({**await matrix.document(), "chosen": await _chosen(service)})

    @app.get("/v1/admin/skills/history", openapi_extra=query_parameters(_Sought), response_model=None)
    async def history(request: Request) -> Response:
        """How records changed, the newest change first: of every expert over all, or on one skill."""
        await admin.check(request)
        query = _Sought.model_validate(dict(request.query_params))
        changes = await asyncio.to_thread(_history, await service.record_history.changes(), query)
        page = changes[: query.limit]
        return JSONResponse({"object": "list", "data": page, "has_more": len(changes) > len(page)})


async def _chosen(service: Service) -> dict[str, dict[str, int]]:
    """By skill, how often each expert was the first that routing chose for it lately, as kept traces have it."""
    if service.telemetry.kept is None:
        return {}
    counts: dict[str, Counter[str]] = {}
    for trace in await service.telemetry.kept.search(Sought(), _LATELY):
        if trace["path"] in ("single", "aggregated"):
            for skill in trace["skills"]:
                counts.setdefault(skill, Counter())[trace["experts"][0]] += 1
    return {skill: dict(experts) for skill, experts in counts.items()}


def _history(changes: Sequence[RecordChange], query: _Sought) -> list[dict[str, Any]]:
    """Of each version and expert the change on the skill that is sought, and on how many it changed in all."""
    history = []
    for (at, expert), group in groupby(changes, lambda change: (change.at, change.expert)):
        rows = list(group)
        if expert != (query.expert or expert) or (query.before is not None and at >= query.before):
            continue
        skills = [change for change in rows if change.skill != OVERALL]
        for row in rows:
            if row.skill == (query.skill or OVERALL):
                moved = max(skills, key=_moved, default=None)
                history.append({**_change(row), "skills_changed": len(skills), "most": moved and _change(moved)})
    return history


def _change(row: RecordChange) -> dict[str, Any]:
    return {
        "object": "symmoe.record_change",
        "at": row.at,
        "expert": row.expert,
        "change": row.change,
        "skill": row.skill or None,
        "before": None if row.before is None else _cell(row.before),
        "now": None if row.now is None else _cell(row.now),
    }


def _moved(row: RecordChange) -> float:
    """How far an accuracy went; where there was or is none, how far from knowing nothing."""
    before, now = (0.5 if tally is None else _cell(tally)["accuracy"] for tally in (row.before, row.now))
    return abs(now - before)


class _Matrix:
    """The records as a table, made anew when the roster has changed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._version = -1
        self._document: dict[str, Any] = {}

    async def document(self) -> dict[str, Any]:
        version = self._service.lifecycle.roster.version
        if version != self._version:
            names = self._service.lifecycle.roster.pool.names
            self._document = await asyncio.to_thread(_table, self._service.records, names)
            self._version = version
        return self._document


def _table(records: Profiles, names: tuple[str, ...]) -> dict[str, Any]:
    known = {name: records.experts[name] for name in names if name in records.experts}
    topics = dict.fromkeys(skill for record in known.values() for skill in record.skills)
    rows = [
        {
            "skill": skill,
            "topic": not records.parents or skill in records.parents,
            "facet": records.parents.get(skill) or None,
            "experts": {name: _cell(record.skills[skill]) for name, record in known.items() if skill in record.skills},
        }
        for skill in topics
    ]
    experts = [
        {"name": name, "overall": _cell(record.overall), "date": record.date or None, "tokens": record.tokens}
        for name, record in known.items()
    ]
    unrecorded = [name for name in names if name not in known]
    return {"object": "symmoe.skills", "experts": experts, "unrecorded": unrecorded, "data": rows}


def _cell(tally: Tally) -> dict[str, float]:
    """The posterior mean of an accuracy under a uniform prior, 0..1."""
    strength = tally.asked + 2
    mean = (tally.right + 1) / strength
    low, high = interval(mean, strength)
    cell = {"accuracy": mean, "low": low, "high": high, "asked": tally.asked}
    return {name: round(float(value), 4) for name, value in cell.items()}
