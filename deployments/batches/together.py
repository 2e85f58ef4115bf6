"""Writing the rows of lines that were answered at about the same time together: one round trip to the store for all."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..storage import Storage
from .keeping import patiently
from .table import batch_key, lines_key

if TYPE_CHECKING:
    from redis.asyncio import Redis

_MOST = 256
_PUT = """
if redis.call('HEXISTS', KEYS[1], 'fixed') == 0 or redis.call('HEXISTS', KEYS[1], 'ending') == 1 then return end
for i = 1, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then redis.call('HINCRBY', KEYS[1], ARGV[i + 2], 1) end
end
"""
"""Add the rows of lines and count them; the first one of a line wins, and none comes after the end."""


@dataclass(slots=True, eq=False)
class _Row:
    batch: str
    line: int
    row: str
    count: str
    written: bool = False


class Rows:
    """Rows that wait are written by whoever of those that wait for them comes first: there is no task of its own."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: list[_Row] = []
        self._writing = asyncio.Lock()

    async def put(self, batch: str, line: int, row: str, count: str) -> None:
        """Write a row, which counts as `answered` or `failed`, however long the store is away."""
        own = _Row(batch, line, row, count)
        self._waiting.append(own)
        async with self._writing:
            while not own.written:
                some, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                try:
                    await patiently(self._storage, lambda client, some=some: _write(client, some))  # type: ignore[misc]
                except BaseException:  # who writes for all was cancelled: the next one does
                    self._waiting = some + self._waiting
                    raise
                for each in some:
                    each.written = True


async def _write(client: Redis, rows: list[_Row]) -> None:
    """Twice is as good as once."""
    by_batch = defaultdict[str, list[str | int]](list)
    for each in rows:
        by_batch[each.batch] += [each.line, each.row, each.count]
    pipe = client.pipeline(transaction=False)
    for batch, words in by_batch.items():
        pipe.eval(_PUT, 2, batch_key(batch), lines_key(batch), *words)
    await pipe.execute()
