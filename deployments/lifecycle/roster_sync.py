"""Keeping what is decided about experts in the store, and one process's roster what the store says."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from symmoe.config import state_dir
from symmoe.errors import StoreError

from ..access.breaker import Stored
from ..storage import settled
from .decision import Decision
from .roster import Roster

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5


class Keeper:
    """Writes decisions to the store and reads those of other processes, every half second. Without a store, `stored`
    being None, decisions last as long as this process.
    """

    def __init__(self, roster: Roster, pool: str, stored: Stored | None) -> None:
        self._roster, self._stored, self._table = roster, stored, f"symmoe:experts:{pool}"
        self._unwritten: dict[str, Decision] = {}
        self._deciding = asyncio.Lock()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """As long as the block lasts."""
        if self._stored is None:
            yield
            return
        task = asyncio.create_task(self._keep_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def decide(self, name: str, decision: Decision | None) -> None:
        """Decide about an expert, None for nothing any more. It holds when this returns. Raises `StoreError`."""
        async with self._deciding:
            await self._write({name: decision})
            self._unwritten.pop(name, None)
            await self._read_or_apply({name: decision})

    async def decide_now(self, name: str, decision: Decision) -> None:
        """The same for what cannot wait for the store: it holds here at once, and is written when that is possible."""
        self._unwritten[name] = decision
        self._roster.apply({**self._roster.decisions, name: decision})
        with suppress(StoreError):
            await self.look()

    async def _keep_on(self) -> None:
        while True:
            try:
                await self.look()
            except StoreError:  # it is asked again soon; what was read last holds until then
                pass
            except Exception:
                _LOG.exception("reading what was decided about experts failed")
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Write what is not written yet, and read everything. A store that never was is not started for this.

        Raises `StoreError`.
        """
        async with self._deciding:
            if self._unwritten:
                late = dict(self._unwritten)
                await self._write(late)
                self._unwritten = {name: each for name, each in self._unwritten.items() if late.get(name) is not each}
            elif not store_expected():
                self._roster.apply(self._roster.decisions)
                return
            await self._read_or_apply({})

    async def _read_or_apply(self, decided: Mapping[str, Decision | None]) -> None:
        known: dict[str, Decision | None] = {**await self._read(), **self._unwritten}
        if self._stored is None:
            known = {**self._roster.decisions, **decided}
        self._roster.apply({name: each for name, each in known.items() if each is not None})

    async def _write(self, decided: Mapping[str, Decision | None]) -> None:
        if self._stored is None:
            return

        async def work(client: Redis) -> None:
            for name, decision in decided.items():
                if decision is None:
                    await client.hdel(self._table, name)
                else:
                    await client.hset(self._table, name, decision.row())
            await settled(client)

        await self._stored.do(work)

    async def _read(self) -> dict[str, Decision | None]:
        if self._stored is None:
            return {}

        async def work(client: Redis) -> dict[bytes, bytes]:
            rows: dict[bytes, bytes] = await client.hgetall(self._table)  # type: ignore[assignment]
            return rows

        rows = await self._stored.do(work)
        return {name.decode(errors="replace"): Decision.parse(row) for name, row in rows.items()}


def store_expected() -> bool:
    """Whether a store is named, or an embedded one was ever started."""
    return bool(os.environ.get("REDIS_URL")) or (state_dir() / "valkey.lock").exists()
