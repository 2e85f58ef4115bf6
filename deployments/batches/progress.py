"""Batches in the store, as their runner knows them: the rows of answered lines, and how a batch ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from symmoe.limits import NAMES_AT_ONCE

from ..settings import Settings
from ..storage import Storage, command
from .batches import (
    BatchRecord,
    Outcome,
    add_fact,
    batch_key,
    close,
    expire,
    forget_unknown,
    lines_key,
    now,
    open_names,
    read_batch,
)
from .files import FileRecord, find_file, write_file
from .segments import Rows, Segments, Spot
from .store_access import durably, patiently

if TYPE_CHECKING:
    from redis.asyncio import Redis

Result = TypeVar("Result")
_CONNECTIONS = 8
"""Hundreds of lines may be open at once, and online requests go to the same store."""


class Progress:
    """The batches of a service, for its runner. Every method waits while the store is away, and may be called twice."""

    def __init__(self, storage: Storage, segments: Segments, settings: Settings) -> None:
        self._storage, self._few = storage, asyncio.Semaphore(_CONNECTIONS)
        self._rows, self.segments = Rows(storage, segments), segments
        self._settings = settings

    async def open(self) -> dict[str, list[str]]:
        """The batches that are not over by owner, oldest first: as many as an owner may have."""

        return await self._do(lambda client: open_names(client, self._settings.most_open_batches))

    async def expire(self) -> int:
        """Forget batches that were over long enough ago, a page of them at most; how many."""
        return await self._do(lambda client: expire(client, int(now())))

    async def read(self, ident: str) -> BatchRecord | None:
        """A batch."""
        return await self._do(lambda client: read_batch(client, ident))

    async def knows_file(self, ident: str) -> bool:
        """Whether a file was uploaded and not deleted."""
        return await self._do(lambda client: find_file(client, ident)) is not None

    async def note(self, ident: str, facts: Mapping[str, str | int]) -> None:
        """Add facts; one that is there stays as it is."""

        async def work(client: Redis) -> None:
            pipe = client.pipeline(transaction=False)
            for name, value in facts.items():
                pipe.hsetnx(batch_key(ident), name, str(value))
            await pipe.execute()

        await self._do(work)

    async def put(self, ident: str, line: int, row: Sequence[str], count: str) -> None:
        """Write a line's row, given in parts, which counts as `answered` or `failed`. The first one wins."""
        await self._rows.put(ident, line, row, count)

    async def done(self, ident: str) -> set[int]:
        """The lines that have their rows."""

        async def work(client: Redis) -> set[int]:
            pairs = client.hscan_iter(lines_key(ident), count=NAMES_AT_ONCE)
            return {int(name) async for name, _ in pairs}

        return await self._do(work)

    async def rows(self, ident: str, lines: Sequence[int]) -> list[Spot | None]:
        """Where the rows of these lines stand; None for a line without one."""

        spots: list[bytes | None] = await self._do(command("HMGET", lines_key(ident), *lines))
        return [None if spot is None else Spot.read(spot.decode()) for spot in spots]

    async def lose(self, ident: str, lines: Sequence[int]) -> None:
        """Forget rows that are not where they stood."""
        await self._do(command("HDEL", lines_key(ident), *lines))

    async def decide(self, ident: str, outcome: Outcome) -> Outcome:
        """Decide the outcome; gives the one that counts: what was decided first, or `cancelled` where that was asked.

        All rows are on the disk when this returns.
        """
        await asyncio.to_thread(self.segments.sync, ident)

        async def work(client: Redis) -> BatchRecord | None:
            unless = () if outcome == "cancelled" else ("cancelling_at",)
            await add_fact(client, ident, "outcome", outcome, *unless)
            await add_fact(client, ident, "outcome", "cancelled")
            if outcome == "completed":
                await add_fact(client, ident, "finalizing_at", now(), "cancelling_at")
            await durably(client, lambda pipe: pipe.hset(batch_key(ident), "decided", "1"))
            return await read_batch(client, ident)

        record = await self._do(work)
        decided: Any = outcome if record is None else record.facts.get("outcome", outcome)
        return decided  # type: ignore[no-any-return]

    async def end(
        self, record: BatchRecord, outcome: Outcome, facts: Mapping[str, str | int], files: Sequence[FileRecord]
    ) -> None:
        """Make its files known and end it. Its rows are dropped only once that is on disk."""

        async def work(client: Redis) -> None:
            for file in files:
                await write_file(client, file)
            ending: dict[Any, Any] = {**{name: str(value) for name, value in facts.items()}, "ending": outcome}
            await durably(client, lambda pipe: pipe.hset(batch_key(record.id), mapping=ending))

        await self._do(work)
        await self.finish(record, outcome)

    async def finish(self, record: BatchRecord, outcome: str) -> None:
        """Drop the rows of a batch whose end is on disk, and show it."""
        settings = self._settings
        retention = settings.batch_records_seconds, settings.most_batch_records
        await self._do(lambda client: close(client, record, outcome, int(now()), *retention))
        await asyncio.to_thread(self.segments.delete, record.id)

    async def forget(self, ident: str, owner: str) -> None:
        """List a batch no more whose record was never written, or was lost."""
        await self._do(lambda client: forget_unknown(client, ident, owner))

    async def sweep(self) -> None:
        """Remove rows of batches that are over: whoever ended them was killed before it could."""
        for ident in await asyncio.to_thread(self.segments.left):
            record = await self.read(ident)
            if record is None or record.ended:
                await asyncio.to_thread(self.segments.delete, ident)

    async def _do(self, work: Callable[[Redis], Awaitable[Result]]) -> Result:
        async with self._few:
            return await patiently(self._storage, work)
