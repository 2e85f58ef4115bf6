"""Where a round goes out as one operation that can be polled but not woken, as NCCL's: the same, over gloo."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.carriers import NcclCarrier
from symmoe.loading.collectives.gather import sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup

from .ranks import MemorySource, chunks_of, in_threads, places, planned

CHUNKS = chunks_of(*[5000] * 12)


class AsOne:
    """What several operations came to."""

    def __init__(self, works: list[Any]) -> None:
        self._works = works
        self._done = threading.Event()
        self.thread = threading.Thread(target=self._wait)
        self.thread.start()

    def is_completed(self) -> bool:
        return self._done.is_set()

    def wait(self) -> None:
        assert self.is_completed()

    def _wait(self) -> None:
        try:
            while self._works:
                self._works.pop(0).wait()
        except RuntimeError:
            self._works.clear()  # a lost peer leaves it unfinished for ever
        else:
            self._done.set()


class Coalescing:
    """Another group, whose operations are begun all at once at the end of a batch."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._batch: list[tuple[Any, ...]] | None = None
        self.rounds: list[AsOne] = []
        self.aborted = False

    def _start_coalescing(self) -> None:
        assert self._batch is None
        self._batch = []

    def _end_coalescing(self) -> AsOne:
        assert self._batch
        self.rounds.append(AsOne([operation(*args) for operation, *args in self._batch]))
        self._batch = None
        return self.rounds[-1]

    def send(self, *args: Any) -> None:
        assert self._batch is not None
        self._batch.append((self._group.send, *args))

    def recv(self, *args: Any) -> None:
        assert self._batch is not None
        self._batch.append((self._group.recv, *args))

    def abort(self) -> None:
        self.aborted = True
        self._group = None


def gather(rank: int, group: GatherGroup, demand: list[Any], faulty: int | None = None) -> tuple[Any, Coalescing]:
    """Gather through a coalescing group; what arrived, or the error."""

    def fails(buffer: memoryview) -> None:
        raise OSError(5, "Input/output error")

    carrier = Coalescing(group._control)
    group.carrier = NcclCarrier(carrier)
    plan = planned(demand, CHUNKS)
    out = places(plan, rank)
    source = MemorySource(CHUNKS, {} if faulty is None else {faulty: fails})
    try:
        sparse_all_gather(out, plan, source, group)
    except CollectiveError as error:
        return error, carrier
    finally:
        for each in carrier.rounds:
            each.thread.join()
    return {chunk: bytes(place.tolist()) for chunk, place in out.items()}, carrier


@pytest.mark.parametrize(
    "demand",
    [[range(12)] * 3, [range(12), {0, 5}, set()], [set(), {1}, {1}]],
    ids=["all", "some", "one chunk"],
)
def test_chunks_arrive(demand: list[Any]) -> None:
    ended = in_threads(3, lambda rank, group: gather(rank, group, demand))
    for (arrived, _), chunks in zip(ended, demand, strict=True):
        assert arrived == {chunk: CHUNKS[chunk] for chunk in chunks}


def test_no_batch_is_empty() -> None:
    ended = in_threads(3, lambda rank, group: gather(rank, group, [{0}, {0}, {1}]))
    assert len(ended[2][1].rounds) == 0


def test_a_failure_ends_those_that_only_poll() -> None:
    ended = in_threads(3, lambda rank, group: gather(rank, group, [range(12)] * 3, 4))
    assert len({str(error) for error, _ in ended}) == 1
    assert (ended[0][0].rank, ended[0][0].chunk) == (1, 4)
    assert all(carrier.aborted for _, carrier in ended)
