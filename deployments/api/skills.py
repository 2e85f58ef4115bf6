"""`/v1/admin/skills`: how good each expert is at each skill, and where the pool is weak."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from symmoe.routing.tallies import interval
from symmoe.types import Profiles, Tally

from ..telemetry.trace_store import Sought
from .admin import Admin
from .service import Service

_LATELY = 1000
"""Traces that are looked through for whom routing chose."""


def skill_paths(app: FastAPI, service: Service) -> None:
    """Register them."""
    admin, known = Admin(service), _Matrix(service)

    @app.get("/v1/admin/skills", response_model=None)
    async def skills(request: Request) -> Response:
        """Every skill with each expert's accuracy on it, its 95 % interval, how many answers were counted, and who was
        chosen for it lately.
        """
        await admin.check(request)
        return JSONResponse({**await known.document(), "chosen": await _chosen(service)})


async def _chosen(service: Service) -> dict[str, dict[str, int]]:
    """By skill, how often each expert was the first that routing chose for it lately, as kept traces have it."""
    if service.telemetry.kept is None:
        return {}
    found: dict[str, Counter[str]] = {}
    for trace in await service.telemetry.kept.search(Sought(), _LATELY):
        if trace["path"] in ("single", "aggregated"):
            for skill in trace["skills"]:
                found.setdefault(skill, Counter())[trace["experts"][0]] += 1
    return {skill: dict(experts) for skill, experts in found.items()}


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
    shown = {"accuracy": mean, "low": low, "high": high, "asked": tally.asked}
    return {name: round(float(value), 4) for name, value in shown.items()}
