from __future__ import annotations

import threading

import pytest
import torch

from symmoe.loading.collectives.landing import Landing
from symmoe.loading.collectives.readahead import AHEAD, ReadAhead

from .ranks import MemorySource, chunks_of

CHUNKS = chunks_of(*[100] * 9)


def landing() -> Landing:
    return Landing({}, torch.device("cpu"), [len(chunk) for chunk in CHUNKS], 4)


def test_chunks_come_in_the_order_asked_for() -> None:
    order = [3, 1, 4, 0]
    with ReadAhead(order, MemorySource(CHUNKS), landing()).running() as reading:
        assert [bytes(reading.take().tolist()) for _ in order] == [CHUNKS[number] for number in order]


def test_no_more_is_read_than_may_wait() -> None:
    read = [threading.Event() for _ in CHUNKS]
    source = MemorySource(CHUNKS, {number: lambda _, each=each: each.set() for number, each in enumerate(read)})
    with ReadAhead(range(len(CHUNKS)), source, landing()).running() as reading:
        assert all(each.wait(10) for each in read[:AHEAD])
        assert not read[AHEAD].is_set()
        reading.take()
        assert read[AHEAD].wait(10)
        assert not read[AHEAD + 1].is_set()
    assert len(source.reads) == AHEAD + 1


def test_what_reading_raises_is_raised_where_the_chunk_is_taken() -> None:
    def fails(buffer: memoryview) -> None:
        raise OSError(5, "Input/output error")

    with ReadAhead([0, 1, 2], MemorySource(CHUNKS, {1: fails}), landing()).running() as reading:
        assert bytes(reading.take().tolist()) == CHUNKS[0]
        with pytest.raises(OSError, match="Input/output error"):
            reading.take()


def test_nothing_more_is_read_once_it_is_left() -> None:
    source = MemorySource(CHUNKS)
    with ReadAhead(range(len(CHUNKS)), source, landing()).running() as reading:
        reading.take()
    count = len(source.reads)
    assert count <= AHEAD + 1
    assert not any(thread.name == "gather_read" for thread in threading.enumerate())
