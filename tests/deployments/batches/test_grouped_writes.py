"""Rows that are written together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.batches.grouped_writes import Rows
from symmoe.deployments.batches.ids import BATCH
from symmoe.deployments.batches.segments import Segments, Spot
from symmoe.deployments.batches.table import batch_key, lines_key
from symmoe.deployments.storage import Storage

from tests.deployments.batches.conftest import state_in
from tests.stores import connected

A, B, UNKNOWN = (f"{BATCH}{digit * 32}" for digit in "abc")


class Counting(Storage):
    """Counts round trips, and makes each wait until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.trips, self.let, self.waiting = 0, asyncio.Event(), asyncio.Event()

    async def do(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        self.trips += 1
        self.waiting.set()
        await self.let.wait()
        return await super().do(work)


@pytest.fixture(autouse=True)
def stored(tmp_path: Path) -> Iterator[None]:
    with state_in(tmp_path):
        for batch in (A, B):
            connected().hset(batch_key(batch), "fixed", "{}")
        yield


def rows(folder: Path, batch: str) -> dict[int, str]:
    """The rows of a batch's lines: the store says where they stand."""
    found: dict[bytes, bytes] = connected().hgetall(lines_key(batch))  # type: ignore[assignment]
    read = dict[int, str]()
    with Segments(folder).reading(batch) as reading:
        for line, spot in found.items():
            reading.copy(Spot.read(spot.decode()), row := BytesIO())
            read[int(line)] = row.getvalue().decode().removesuffix("\n")
    return read


def test_hundreds_of_rows_take_a_few_round_trips_and_each_is_counted_once(tmp_path: Path) -> None:
    async def play() -> int:
        storage = Counting()
        storage.let.set()
        written = Rows(storage, Segments(tmp_path))
        puts = [written.put((A, B)[n % 2], n // 2, [f"row {n}"], "answered") for n in range(600)]
        again = [written.put(A, n, ["another"], "failed") for n in range(50)]
        await asyncio.gather(*puts, *again)
        await storage.close()
        return storage.trips

    assert asyncio.run(play()) <= 4
    for place, batch in enumerate((A, B)):
        assert rows(tmp_path, batch) == {n: f"row {2 * n + place}" for n in range(300)}
        assert connected().hgetall(batch_key(batch)) == {
            b"fixed": b"{}",
            b"answered": b"300",
            b"row_bytes": b"%d" % sum(len(row) + 1 for row in rows(tmp_path, batch).values()),
        }


def test_who_writes_for_others_and_leaves_costs_them_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        storage = Counting()
        written = Rows(storage, Segments(tmp_path))
        puts = [asyncio.create_task(written.put(A, n, [f"row {n}"], "answered")) for n in range(3)]
        await storage.waiting.wait()
        puts[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await puts[0]
        storage.let.set()
        await asyncio.gather(*puts[1:])
        await storage.close()

    asyncio.run(play())
    assert rows(tmp_path, A).keys() >= {1, 2}


def test_no_row_comes_after_the_end_or_for_a_batch_that_is_unknown(tmp_path: Path) -> None:
    async def play() -> None:
        storage = Counting()
        storage.let.set()
        connected().hset(batch_key(B), "ending", "cancelled")
        written = Rows(storage, Segments(tmp_path))
        await asyncio.gather(*(written.put(batch, 1, ["row"], "answered") for batch in (A, B, UNKNOWN)))
        await storage.close()

    asyncio.run(play())
    assert [bool(rows(tmp_path, batch)) for batch in (A, B, UNKNOWN)] == [True, False, False]
