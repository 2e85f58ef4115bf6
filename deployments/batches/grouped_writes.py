"""Writing the rows of lines that were answered at about the same time together: one step for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symmoe.limits import NAMES_AT_ONCE

from ..storage import Storage
from .segments import Segments, Spot
from .store_access import patiently
from .table import batch_key, lines_key

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LOG = logging.getLogger(__name__)
_FULL_SECONDS = 2.0
_PUT = """
if redis.call('HEXISTS', KEYS[1], 'fixed') == 0 or redis.call('HEXISTS', KEYS[1], 'ending') == 1 then return end
for i = 1, #ARGV, 4 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('HINCRBY', KEYS[1], ARGV[i + 2], 1)
    redis.call('HINCRBY', KEYS[1], 'row_bytes', ARGV[i + 3])
  end
end
"""
"""Add where the rows of lines stand, and count them; the first one of a line wins, and none comes after the end."""


@dataclass(slots=True, eq=False)
class _Row:
    batch: str
    line: int
    row: Sequence[str]
    count: str
    spot: Spot | None = None
    written: bool = False


class Rows:
    """Rows that wait are written by whoever of those that wait for them comes first: there is no task of its own.

    They go to the disk, and to the store only where they stand there. Memory is given back as soon as that is known.
    """

    def __init__(self, storage: Storage, segments: Segments) -> None:
        self._storage, self._segments = storage, segments
        self._waiting: list[_Row] = []
        self._writing = asyncio.Lock()

    async def put(self, batch: str, line: int, row: Sequence[str], count: str) -> None:
        """Write a row, given in parts, which counts as `answered` or `failed`.

        Waits for as long as the store is away, or the disk full.
        """
        own = _Row(batch, line, row, count)
        self._waiting.append(own)
        try:
            async with self._writing:
                while not own.written:
                    await self._write_some()
        finally:
            if own in self._waiting:  # who wanted it is gone, and asks its line again
                self._waiting.remove(own)

    async def _write_some(self) -> None:
        some, self._waiting = self._waiting[:NAMES_AT_ONCE], self._waiting[NAMES_AT_ONCE:]
        try:
            await self._keep(some)
            await patiently(self._storage, lambda client: _note(client, some))
        except BaseException:  # who writes for all was cancelled: the next one does
            self._waiting = some + self._waiting
            raise
        for each in some:
            each.written = True

    async def _keep(self, rows: list[_Row]) -> None:
        """Have rows on the disk; one that is there already is not written again."""
        by_batch = defaultdict[str, list[_Row]](list)
        for each in rows:
            if each.spot is None:
                by_batch[each.batch].append(each)
        for batch, own in by_batch.items():
            written = [(each.row, each.count == "answered") for each in own]
            spots = await _once_there_is_room(lambda batch=batch, written=written: self._segments.write(batch, written))  # type: ignore[misc]
            for each, spot in zip(own, spots, strict=True):
                each.spot, each.row = spot, ()


async def _once_there_is_room(write: Callable[[], list[Spot]]) -> list[Spot]:
    told = False
    while True:
        try:
            return await asyncio.to_thread(write)
        except OSError as error:
            if not told:
                _LOG.warning("rows of batches cannot be written (%s): they wait until they can", error.strerror)
            told = True
            await asyncio.sleep(_FULL_SECONDS)


async def _note(client: Redis, rows: list[_Row]) -> None:
    """Twice is as good as once."""
    by_batch = defaultdict[str, list[str | int]](list)
    for each in rows:
        if each.spot is not None:
            by_batch[each.batch] += [each.line, str(each.spot), each.count, each.spot.size]
    pipe = client.pipeline(transaction=False)
    for batch, words in by_batch.items():
        pipe.eval(_PUT, 2, batch_key(batch), lines_key(batch), *words)
    await pipe.execute()
