"""The history of a pool's records: every version that a service worked with, kept in the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from symmoe.limits import RECORD_HISTORY_BYTES, RECORD_VERSIONS
from symmoe.types import Profiles, Tally

from ..access.breaker import Stored
from ..repeating import repeating
from ..storage import command
from .lifecycle import store_expected
from .roster import Roster

if TYPE_CHECKING:
    from redis.asyncio import Redis

Change: TypeAlias = Literal["found", "added", "removed", "updated"]
OVERALL = ""
"""In place of a skill: over all of them."""
_Cell: TypeAlias = tuple[float, float]
_Table: TypeAlias = dict[str, dict[str, _Cell]]
_Row: TypeAlias = tuple[str, Change, str, _Cell | None, _Cell | None]
_LOOK_SECONDS = 1.0
_TRIES = 5

_APPEND = """
local now, versions = KEYS[1], KEYS[2]
if (redis.call('GET', now) or '') ~= ARGV[1] then return 0 end
redis.call('SET', now, ARGV[2])
redis.call('LPUSH', versions, ARGV[3])
local most, bytes, held = tonumber(ARGV[4]), tonumber(ARGV[5]), 0
for place, version in ipairs(redis.call('LRANGE', versions, 0, -1)) do
  held = held + #version
  if place > 1 and (place > most or held > bytes) then
    redis.call('LTRIM', versions, 0, place - 2)
    break
  end
end
return 1
"""
"""Nothing is written where another process was quicker: the same change is noted once."""


@dataclass(frozen=True, slots=True)
class RecordChange:
    """A change of an expert's tally on a skill, or over all, `at` seconds since 1970.

    `before` and `now` are None where there was or is no tally. `found` marks what the first version holds.
    """

    at: float
    expert: str
    change: Change
    skill: str
    before: Tally | None
    now: Tally | None


class RecordHistory:
    """The versions of a pool's records, as `records` gives them for the experts of `roster`. `stored` may be None.

    The oldest versions are dropped beyond `RECORD_VERSIONS`, or `RECORD_HISTORY_BYTES` together.
    """

    def __init__(
        self,
        pool: str,
        roster: Roster,
        records: Callable[[], Profiles],
        stored: Stored | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._roster, self._records, self._stored, self._clock = roster, records, stored, clock
        self._keys = [f"symmoe:records:{pool}:now", f"symmoe:records:{pool}:versions"]
        self._noted = -1

    def noting(self) -> AbstractAsyncContextManager[None]:
        """Record changes during the block. Does not start a store that never existed."""
        return nullcontext() if self._stored is None else repeating(self._look, _LOOK_SECONDS)

    async def note(self) -> None:
        """Record what differs from the newest version, if anything. Raises `StoreError`."""
        version = self._roster.version
        if self._stored is None or not self._roster.known or version == self._noted:
            return
        table = await asyncio.to_thread(lambda: _table(self._records(), self._roster.pool.names))
        for _ in range(_TRIES):
            if await self._append(self._stored, table):
                break
        self._noted = version

    async def changes(self) -> list[RecordChange]:
        """Every recorded change, newest first. Raises `StoreError`."""
        if self._stored is None:
            return []
        await self.note()
        versions: list[bytes] = await self._stored.do(command("LRANGE", self._keys[1], 0, -1))
        return await asyncio.to_thread(lambda: [change for version in versions for change in _changes(version)])

    async def _look(self) -> None:
        if store_expected():
            await self.note()

    async def _append(self, stored: Stored, table: _Table) -> bool:
        """Whether the newest version in the store is this table now; not where another process wrote meanwhile."""
        before: bytes = await stored.do(command("GET", self._keys[0])) or b""
        now = to_json(table)
        if before == now:
            return True
        previous = _TABLE.validate_json(before) if before else None
        version = to_json({"at": self._clock(), "rows": list(_rows(previous, table))})
        bounds = [RECORD_VERSIONS, RECORD_HISTORY_BYTES]

        async def write(client: Redis) -> int:
            return int(await client.register_script(_APPEND)(keys=self._keys, args=[before, now, version, *bounds]))

        return bool(await stored.do(write))


_TABLE: TypeAdapter[_Table] = TypeAdapter(_Table)
_ROWS: TypeAdapter[list[_Row]] = TypeAdapter(list[_Row])


def _table(records: Profiles, names: tuple[str, ...]) -> _Table:
    """Right and wrong answers by expert and skill; nothing of an expert without a record."""
    table: _Table = {}
    for name in sorted(names):
        record = records.experts.get(name)
        tallies = {} if record is None else {OVERALL: record.overall, **record.skills}
        table[name] = {
            skill: (round(tally.right, 3), round(tally.wrong, 3)) for skill, tally in sorted(tallies.items())
        }
    return table


def _rows(before: Mapping[str, Mapping[str, _Cell]] | None, now: Mapping[str, Mapping[str, _Cell]]) -> Iterator[_Row]:
    """Of every expert that changed its tally over all, whether that changed or not, and each that did on a skill."""
    previous = before or {}
    for expert in sorted({*previous, *now}):
        old, new = previous.get(expert), now.get(expert)
        if old == new:
            continue
        change: Change = (
            "found" if before is None else "added" if old is None else "removed" if new is None else "updated"
        )
        old_skills, new_skills = old or {}, new or {}
        for skill in sorted({OVERALL, *old_skills, *new_skills}):
            if skill == OVERALL or old_skills.get(skill) != new_skills.get(skill):
                yield expert, change, skill, old_skills.get(skill), new_skills.get(skill)


def _changes(version: bytes) -> Iterator[RecordChange]:
    document = from_json(version)
    for expert, change, skill, before, now in _ROWS.validate_python(document["rows"]):
        yield RecordChange(document["at"], expert, change, skill, _tally(before), _tally(now))


def _tally(cell: _Cell | None) -> Tally | None:
    return None if cell is None else Tally(*cell)
