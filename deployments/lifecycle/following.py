"""Follows the pool file of a running service: experts added to it or removed from it come and go without a restart."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from symmoe.config import ExpertConfig, Pool, read_pool
from symmoe.errors import SymmoeError

from ..repeating import repeating
from .lifecycle import Lifecycle
from .roster import joining

JOINED = "joined.json"
"""Beside the pool file: the records of those who came, as a file of profiles has them."""
BY_FILE = "the pool file says so"
_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0


@asynccontextmanager
async def following(file: Path | None, pool: Pool, lifecycle: Lifecycle, folder: str | None) -> AsyncIterator[None]:
    """Check the pool file regularly during the block. `pool` is what it was when the service began."""
    if file is None:
        yield
        return
    seen = ""

    async def look() -> None:
        nonlocal seen
        try:
            text = await asyncio.to_thread(_text, file)
            if text != seen and lifecycle.roster.known:
                await follow(file, pool, lifecycle, folder)
                seen = text
        except (SymmoeError, OSError) as error:
            _LOG.warning("the changed pool file is not followed yet: %.300s", error)

    async with repeating(look, _LOOK_SECONDS, at_once=True):
        yield


async def follow(file: Path, pool: Pool, lifecycle: Lifecycle, folder: str | None) -> None:
    """Change the experts to what the file says, except what operators decided by hand; `pool` is its earlier content.

    Experts are added before others are removed. A changed description of an expert needs a new deployment. Raises
    `SymmoeError` for an unusable file or expert, and if the store does not answer.
    """
    new_pool = await asyncio.to_thread(read_pool, str(file))
    records = await asyncio.to_thread(_records, file.with_name(JOINED))
    experts, roster = {expert.name: expert for expert in new_pool.experts}, lifecycle.roster
    for expert in new_pool.experts:
        if expert.name not in pool.names:
            await _come(expert, records.get(expert.name), pool, lifecycle, folder)
        elif expert != pool.expert(expert.name):
            _LOG.warning("expert %r is described otherwise than when the service began: deploy it anew", expert.name)
        elif roster.state(expert.name) == "removed" and roster.decision(expert.name).why == BY_FILE:
            await lifecycle.put(expert.name, "active")
    for name in {*pool.names, *roster.decisions} - experts.keys():
        by_file = name in pool.names or roster.decision(name).why == BY_FILE
        if (
            by_file
            and roster.has(name) is not None
            and roster.state(name) != "removed"
            and len(roster.pool.experts) > 1
        ):
            await lifecycle.put(name, "removed", BY_FILE)


async def _come(
    expert: ExpertConfig, record: dict[str, Any] | None, pool: Pool, lifecycle: Lifecycle, folder: str | None
) -> None:
    newcomer = await asyncio.to_thread(joining, pool, expert, record, folder)
    decision = lifecycle.roster.decision(expert.name)
    if (decision.expert, decision.record) != (newcomer.expert, newcomer.record):
        await lifecycle.add(expert.name, newcomer, BY_FILE)


def _text(file: Path) -> str:
    joined = file.with_name(JOINED)
    return file.read_text(encoding="utf-8") + (joined.read_text(encoding="utf-8") if joined.exists() else "")


def _records(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))["experts"]) if file.exists() else {}
