"""Keeping what is decided about experts in the store, and one process's roster what the store says."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from symmoe.config import state_dir
from symmoe.errors import StoreError, SymmoeError
from symmoe.limits import EXPERTS

from ..access.breaker import Stored
from .roster import Roster
from .standing import Standing

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5
Check = Callable[[str, Standing], None]


class Keeper:
    """Writes decisions to the store and reads those of other processes, every half second. Without a store, `stored`
    being None, decisions last as long as this process.

    What it reads is believed no more than a request: rows that nobody here would have written are left out, and so are
    newcomers that `check`, which may block, raises for; without it all of them are.
    """

    def __init__(self, roster: Roster, pool: str, stored: Stored | None, check: Check | None = None) -> None:
        self._roster, self._stored, self._table = roster, stored, f"symmoe:experts:{pool}"
        self._check = check
        self._checked: dict[str, str] = {}
        """Why each newcomer that was read is left out, by its content; empty where it is not."""
        self._unwritten: dict[str, Standing] = {}
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

    async def decide(self, name: str, standing: Standing | None) -> None:
        """Decide about an expert, None for nothing any more. It holds when this returns. Raises `StoreError`."""
        async with self._deciding:
            if standing is not None:
                self._checked[_content(name, standing)] = ""  # whoever decides has checked it
            await self._write({name: standing})
            self._unwritten.pop(name, None)
            await self._read_or_apply({name: standing})

    async def decide_now(self, name: str, standing: Standing) -> None:
        """The same for what cannot wait for the store: it holds here at once, and is written when that is possible."""
        self._unwritten[name] = standing
        self._roster.apply({**self._roster.standings, name: standing})
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
            elif not _there_may_be_one():
                self._roster.apply(self._roster.standings)
                return
            await self._read_or_apply({})

    async def _read_or_apply(self, decided: Mapping[str, Standing | None]) -> None:
        known: dict[str, Standing | None] = {**await self._read(), **self._unwritten}
        if self._stored is None:
            known = {**self._roster.standings, **decided}
        self._roster.apply({name: each for name, each in known.items() if each is not None})

    async def _write(self, decided: Mapping[str, Standing | None]) -> None:
        if self._stored is None:
            return

        async def work(client: Redis) -> None:
            for name, standing in decided.items():
                if standing is None:
                    await client.hdel(self._table, name)
                else:
                    await client.hset(self._table, name, standing.row())

        await self._stored.do(work)

    async def _read(self) -> dict[str, Standing | None]:
        if self._stored is None:
            return {}

        async def work(client: Redis) -> dict[bytes, bytes]:
            rows: dict[bytes, bytes] = await client.hgetall(self._table)  # type: ignore[assignment]
            return rows

        return await self._believed(await self._stored.do(work))

    async def _believed(self, rows: Mapping[bytes, bytes]) -> dict[str, Standing | None]:
        """What the rows say, without those that say nothing or too much."""
        found: dict[str, Standing | None] = {}
        reasons: dict[str, str] = {}
        room = EXPERTS - len(self._roster.base.experts)
        for key, row in sorted(rows.items()):
            name, standing = key.decode(errors="replace"), Standing.parse(row)
            content = _content(name, standing or row)
            if standing is None:
                reasons[content] = "it is no decision"
            elif standing.expert is not None and name not in self._roster.base.names:
                reasons[content] = await self._reason(content, name, standing) if room else "there are too many experts"
                room -= not reasons[content]
            why = reasons.get(content, "")
            if why and self._checked.get(content) != why:
                _LOG.warning("what the store says of expert %r is passed over: %s", name[:64], why)
            if not why:
                found[name] = standing
        self._checked = reasons
        return found

    async def _reason(self, content: str, name: str, standing: Standing) -> str:
        """Why a newcomer may not join; empty where it may. Looked at once, as its files may be large."""
        known = self._checked.get(content)
        if known is not None:
            return known
        if self._check is None:
            return "nobody is added here"
        try:
            await asyncio.to_thread(self._check, name, standing)
        except SymmoeError as error:
            return str(error)[:200] or type(error).__name__
        except Exception as error:  # whatever it is, it is the row's fault, and the others are to be heard
            return type(error).__name__
        return ""


def _content(name: str, row: Standing | bytes) -> str:
    """What is looked at before an expert may join; a change of its state is none of it."""
    return repr((name, row) if isinstance(row, bytes) else (name, row.expert, row.record))


def _there_may_be_one() -> bool:
    """Whether a store is named, or an embedded one was ever started."""
    return bool(os.environ.get("REDIS_URL")) or (state_dir() / "valkey.lock").exists()
