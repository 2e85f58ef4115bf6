from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from symmoe.deployments.microbatch import MicroBatch


def test_what_arrives_while_a_batch_is_at_work_makes_the_next_one() -> None:
    batches: list[list[int]] = []
    first, go = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        first.set()
        assert go.wait(10)
        return [item * 10 for item in items]

    async def running() -> list[int]:
        batch = MicroBatch(work, most=3)
        alone = asyncio.create_task(batch(0))
        await asyncio.to_thread(first.wait, 10)
        others = [asyncio.create_task(batch(n)) for n in range(1, 6)]
        await asyncio.sleep(0)
        go.set()
        return [await each for each in (alone, *others)]

    assert asyncio.run(running()) == [0, 10, 20, 30, 40, 50]
    assert batches == [[0], [1, 2, 3], [4, 5]]


def test_one_bad_item_spoils_nobody_elses_result() -> None:
    def work(items: Sequence[int]) -> list[int]:
        return [1 // item for item in items]

    async def running() -> list[object]:
        batch = MicroBatch(work)
        return list(await asyncio.gather(*(batch(n) for n in (1, 0, 1)), return_exceptions=True))

    first, bad, third = asyncio.run(running())
    assert (first, third) == (1, 1)
    assert isinstance(bad, ZeroDivisionError)


def test_who_stops_waiting_is_not_worked_for() -> None:
    seen: list[int] = []
    go = threading.Event()

    def work(items: Sequence[int]) -> Sequence[int]:
        seen.extend(items)
        assert go.wait(10)
        return items

    async def running() -> None:
        batch = MicroBatch(work)
        first = asyncio.create_task(batch(1))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(batch(2))
        await asyncio.sleep(0)
        second.cancel()
        go.set()
        assert await first == 1
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await batch(3) == 3

    asyncio.run(running())
    assert seen == [1, 3]


def played(passed: int) -> list[list[str]]:
    """The batches that are made where a line waits and others keep coming, `passed` of them."""
    batches: list[list[str]] = []
    started, go = threading.Semaphore(0), threading.Semaphore(0)

    def work(items: Sequence[str]) -> list[str]:
        batches.append(list(items))
        started.release()
        assert go.acquire(timeout=10)
        return list(items)

    async def running() -> None:
        batch = MicroBatch(work, most=8)
        asked = [asyncio.create_task(batch("first"))]
        await asyncio.to_thread(started.acquire, timeout=10)
        asked += [asyncio.create_task(batch(f"line {n}", background=True)) for n in range(5)]
        for number in range(passed):
            asked.append(asyncio.create_task(batch(str(number))))
            await asyncio.sleep(0)
            go.release()
            await asyncio.to_thread(started.acquire, timeout=10)
        for _ in range(10):
            go.release()
        await asyncio.gather(*asked)

    asyncio.run(running())
    return batches


def test_the_background_waits_for_all_others_and_then_comes_in_small_batches() -> None:
    assert played(3) == [["first"], ["0"], ["1"], ["2"], ["line 0", "line 1"], ["line 2", "line 3"], ["line 4"]]


def test_the_background_goes_along_once_it_was_passed_over_eight_times() -> None:
    batches = played(10)
    assert batches[1:9] == [[str(n)] for n in range(8)]
    assert batches[9:11] == [["8", "line 0", "line 1"], ["9"]]
