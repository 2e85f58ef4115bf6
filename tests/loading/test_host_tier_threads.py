"""What the host tier promises when several threads ask at once. Gates and events order them; nothing sleeps."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue

import pytest

from symmoe.errors import CapacityError, CheckpointError
from symmoe.loading.arena import PAGE
from symmoe.loading.host_tier import HostTier

from .fake_images import FakeSource, bytes_of, content


@pytest.fixture
def source() -> FakeSource:
    return FakeSource.of_pages(a=1, b=1, c=1, two=2)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def use(tier: HostTier, key: str) -> None:
    with tier.use(key) as held:
        assert bytes_of(held) == content(key, held.nbytes)


class Watched(threading.Condition):
    """Tells by `waits` that some thread waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.set()
        return super().wait(timeout)


@pytest.fixture
def changed() -> Watched:
    return Watched()


def test_a_use_waits_for_a_prefetch_under_way_instead_of_filling_twice(
    source: FakeSource, threads: ThreadPoolExecutor, changed: Watched
) -> None:
    gate = source.gate("a")
    with closing(HostTier(PAGE, source, changed=changed)) as tier:
        prefetched = tier.prefetch("a")
        assert gate.began.wait(30)
        asked = threads.submit(use, tier, "a")
        assert changed.waits.wait(30)
        gate.open.set()
        asked.result(30)
        assert prefetched.result(30) is True
    assert source.fills == {"a": 1}


def test_a_failed_prefetch_reaches_the_use_that_waits_for_it_and_the_next_use_tries_again(
    source: FakeSource, threads: ThreadPoolExecutor, changed: Watched
) -> None:
    gate = source.gate("a")
    source.errors["a"] = [CheckpointError("truncated")]
    with closing(HostTier(PAGE, source, changed=changed)) as tier:
        prefetched = tier.prefetch("a")
        assert gate.began.wait(30)
        asked = threads.submit(use, tier, "a")
        assert changed.waits.wait(30)
        gate.open.set()
        for each in (asked, prefetched):
            with pytest.raises(CheckpointError, match="truncated"):
                each.result(30)
        use(tier, "a")
    assert source.fills == {"a": 2}


def test_a_use_that_waits_for_an_interrupted_one_fills_by_itself(
    source: FakeSource, threads: ThreadPoolExecutor, changed: Watched
) -> None:
    gate = source.gate("a")
    source.errors["a"] = [KeyboardInterrupt()]
    with closing(HostTier(PAGE, source, changed=changed)) as tier:
        interrupted = threads.submit(use, tier, "a")
        assert gate.began.wait(30)
        asked = threads.submit(use, tier, "a")
        assert changed.waits.wait(30)
        gate.open.set()
        assert isinstance(interrupted.exception(30), KeyboardInterrupt)
        asked.result(30)
    assert source.fills == {"a": 2}


def test_a_use_of_what_is_queued_does_not_wait_for_its_turn(source: FakeSource) -> None:
    gate = source.gate("a")
    with closing(HostTier(3 * PAGE, source)) as tier:
        first, second = tier.prefetch("a"), tier.prefetch("b")
        assert gate.began.wait(30)
        use(tier, "b")
        assert second.result(30) is True
        assert not first.done()
        use(tier, "two")  # which leaves no room for b
        gate.open.set()
        assert first.result(30) is True
        assert tier.prefetch("c").result(30) is True  # b, which would be before it, is no longer queued
    assert source.fills == {"a": 1, "b": 1, "two": 1, "c": 1}


def test_what_is_queued_is_fetched_in_the_order_of_need(source: FakeSource) -> None:
    gate = source.gate("a")
    done: list[str] = []
    with closing(HostTier(3 * PAGE, source)) as tier:
        tier.expect(["a", "b", "c"])
        tier.prefetch("a")
        assert gate.began.wait(30)
        late, soon = tier.prefetch("c"), tier.prefetch("b")
        late.add_done_callback(lambda _: done.append("c"))
        soon.add_done_callback(lambda _: done.append("b"))
        gate.open.set()
        assert (late.result(30), soon.result(30)) == (True, True)
    assert done == ["b", "c"]


def test_all_who_ask_for_a_prefetch_get_the_same_one(source: FakeSource) -> None:
    gate = source.gate("a")
    with closing(HostTier(PAGE, source)) as tier:
        first = tier.prefetch("a")
        assert gate.began.wait(30)
        assert tier.prefetch("a") is first
        assert first.cancel() is False
        gate.open.set()
        assert first.result(30) is True


def test_a_prefetch_of_what_a_use_is_filling_ends_with_it(source: FakeSource, threads: ThreadPoolExecutor) -> None:
    gate = source.gate("a")
    with closing(HostTier(PAGE, source)) as tier:
        asked = threads.submit(use, tier, "a")
        assert gate.began.wait(30)
        prefetched = tier.prefetch("a")
        assert not prefetched.done()
        gate.open.set()
        assert prefetched.result(30) is True
        asked.result(30)
    assert source.fills == {"a": 1}


def test_a_use_that_needs_the_room_of_a_prefetch_under_way_waits_for_it(
    source: FakeSource, threads: ThreadPoolExecutor, changed: Watched
) -> None:
    gate = source.gate("a")
    with closing(HostTier(PAGE, source, changed=changed)) as tier:
        prefetched = tier.prefetch("a")
        assert gate.began.wait(30)
        asked = threads.submit(use, tier, "b")
        assert changed.waits.wait(30)
        assert not asked.done()
        gate.open.set()
        assert prefetched.result(30) is True
        asked.result(30)
        assert dict(tier.resident) == {"b": PAGE}


def test_a_use_that_waits_for_room_takes_what_another_use_leaves(
    source: FakeSource, threads: ThreadPoolExecutor, changed: Watched
) -> None:
    gate = source.gate("b")
    with closing(HostTier(2 * PAGE, source, changed=changed)) as tier:
        with tier.use("a"):
            prefetched = tier.prefetch("b")
            assert gate.began.wait(30)
            asked = threads.submit(use, tier, "c")
            assert changed.waits.wait(30)
        asked.result(30)
        assert not prefetched.done()
        gate.open.set()
        assert prefetched.result(30) is True


def test_a_use_beside_one_that_is_filling_all_the_budget_is_an_error(
    source: FakeSource, threads: ThreadPoolExecutor
) -> None:
    gate = source.gate("a")
    with closing(HostTier(PAGE, source)) as tier:
        asked = threads.submit(use, tier, "a")
        assert gate.began.wait(30)
        with pytest.raises(CapacityError, match="beside what is in use or pinned: a"):
            use(tier, "b")
        assert tier.prefetch("b").result(30) is False
        gate.open.set()
        asked.result(30)


def test_closing_declines_what_is_queued_and_waits_for_what_is_under_way(
    source: FakeSource, threads: ThreadPoolExecutor
) -> None:
    gate = source.gate("a")
    tier = HostTier(3 * PAGE, source)
    under_way, queued = tier.prefetch("a"), tier.prefetch("b")
    assert gate.began.wait(30)
    closing = threads.submit(tier.close)
    assert queued.result(30) is False
    assert not closing.done()
    gate.open.set()
    closing.result(30)
    assert under_way.result(30) is True
    assert source.fills == {"a": 1}


@pytest.mark.parametrize("key", ["a", "b"])  # it waits for the fill, and for the room that it takes up
def test_a_use_that_waits_when_the_tier_closes_is_told(
    key: str, source: FakeSource, threads: ThreadPoolExecutor, changed: Watched
) -> None:
    gate = source.gate("a")
    tier = HostTier(PAGE, source, changed=changed)
    tier.prefetch("a")
    assert gate.began.wait(30)
    asked = threads.submit(use, tier, key)
    assert changed.waits.wait(30)
    closing = threads.submit(tier.close)
    with pytest.raises(ValueError, match="closed"):
        asked.result(30)
    gate.open.set()
    closing.result(30)


def test_a_callback_of_a_prefetch_may_ask_the_tier(source: FakeSource) -> None:
    asked: SimpleQueue[None] = SimpleQueue()
    with closing(HostTier(3 * PAGE, source)) as tier:
        tier.prefetch("a").add_done_callback(lambda _: asked.put(use(tier, "a")))
        asked.get(timeout=30)
    assert source.fills == {"a": 1}


@pytest.mark.parametrize("seed", range(3))
def test_threads_that_ask_for_everything_at_once_get_the_right_bytes(seed: int) -> None:
    """Eight threads, each holding one of twelve images at a time, and room for as many as are held and one more."""
    keys = [f"expert-{number}" for number in range(12)]
    source = FakeSource(dict.fromkeys(keys, 3 * PAGE - 7))
    start = threading.Barrier(8)

    def hammer(thread: int) -> None:
        numbers = random.Random(100 * seed + thread)
        start.wait(30)
        for _ in range(60):
            if numbers.random() < 0.1:
                tier.expect(numbers.choices(keys, k=8))
            if numbers.random() < 0.4:
                tier.prefetch(numbers.choice(keys))
            use(tier, numbers.choice(keys))

    with closing(HostTier(27 * PAGE, source)) as tier, ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(hammer, thread) for thread in range(8)]
        for run in runs:
            run.result(60)


@pytest.mark.parametrize("seed", range(3))
def test_threads_with_too_little_room_are_refused_but_never_stuck_nor_given_wrong_bytes(seed: int) -> None:
    sizes = random.Random(seed)
    keys = [f"expert-{number}" for number in range(9)]
    source = FakeSource({key: sizes.randint(1, 5 * PAGE) for key in keys})
    start = threading.Barrier(6)

    def hammer(thread: int) -> int:
        numbers, served = random.Random(100 * seed + thread), 0
        start.wait(30)
        for _ in range(60):
            tier.prefetch(numbers.choice(keys))
            try:
                key = numbers.choice(keys)
                with tier.use(key) as held:
                    use(tier, keys[0])
                    assert bytes_of(held) == content(key, source.sizes[key])
                served += 1
            except CapacityError:
                continue
        return served

    with closing(HostTier(9 * PAGE, source)) as tier, ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(hammer, thread) for thread in range(6)]
        assert sum(run.result(60) for run in runs) > 0
        for key in keys:
            use(tier, key)
