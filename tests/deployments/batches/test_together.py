"""Rows that are written together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.batches.table import batch_key, lines_key
from symmoe.deployments.batches.together import Rows
from symmoe.deployments.storage import Storage

from symmoe.store import open_store
from tests.deployments.batches.conftest import state_in


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
        for batch in "ab":
            open_store()._client.hset(batch_key(batch), "fixed", "{}")
        yield


def rows(batch: str) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = open_store()._client.hgetall(lines_key(batch))  # type: ignore[assignment]
    return found


def test_hundreds_of_rows_take_a_few_round_trips_and_each_is_counted_once() -> None:
    async def play() -> int:
        storage = Counting()
        storage.let.set()
        written = Rows(storage)
        puts = [written.put("ab"[n % 2], n // 2, f"row {n}", "answered") for n in range(600)]
        again = [written.put("a", n, "another", "failed") for n in range(50)]
        await asyncio.gather(*puts, *again)
        await storage.close()
        return storage.trips

    assert asyncio.run(play()) <= 4
    for place, batch in enumerate("ab"):
        assert rows(batch) == {b"%d" % n: b"row %d" % (2 * n + place) for n in range(300)}
        assert open_store()._client.hgetall(batch_key(batch)) == {b"fixed": b"{}", b"answered": b"300"}


def test_who_writes_for_others_and_leaves_costs_them_nothing() -> None:
    async def play() -> None:
        storage = Counting()
        written = Rows(storage)
        puts = [asyncio.create_task(written.put("a", n, f"row {n}", "answered")) for n in range(3)]
        await storage.waiting.wait()
        puts[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await puts[0]
        storage.let.set()
        await asyncio.gather(*puts[1:])
        await storage.close()

    asyncio.run(play())
    assert rows("a").keys() >= {b"1", b"2"}


def test_no_row_comes_after_the_end_or_for_a_batch_that_is_unknown() -> None:
    async def play() -> None:
        storage = Counting()
        storage.let.set()
        open_store()._client.hset(batch_key("b"), "ending", "cancelled")
        written = Rows(storage)
        await asyncio.gather(*(written.put(batch, 1, "row", "answered") for batch in ("a", "b", "unknown")))
        await storage.close()

    asyncio.run(play())
    assert [bool(rows(batch)) for batch in ("a", "b", "unknown")] == [True, False, False]
