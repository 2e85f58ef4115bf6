from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from symmoe.errors import CheckpointError
from symmoe.loading.collectives.gather import AHEAD, Landing, ReadAhead
from symmoe.loading.collectives.source import PackedSource, SharedRate, ThrottledSource
from tests.loading.collectives.ranks import MemorySource, chunks_of, in_processes

DATA = bytes(range(250))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "packed"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def source(path: Path) -> Iterator[PackedSource]:
    source = PackedSource(path, 100, [hashlib.sha256(DATA[begin : begin + 100]).digest() for begin in (0, 100, 200)])
    yield source
    source.close()
    source.close()


def test_a_packed_file_is_read_chunk_by_chunk_the_last_one_shorter(source: PackedSource) -> None:
    assert source.sizes == (100, 100, 50)
    for chunk, size in enumerate(source.sizes):
        read = bytearray(size)
        source.read(chunk, memoryview(read))
        assert read == DATA[chunk * 100 : chunk * 100 + size]
        assert source.digest(chunk) == hashlib.sha256(read).digest()


def test_a_file_cut_after_it_was_opened_is_told(source: PackedSource, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(120)
    with pytest.raises(CheckpointError, match="ends within chunk 1"):
        source.read(1, memoryview(bytearray(100)))


def test_without_a_manifest_there_is_no_digest(path: Path) -> None:
    source = PackedSource(path, 100)
    assert source.digest(0) is None
    source.close()


def test_an_empty_file_has_no_chunks(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    source = PackedSource(tmp_path / "empty", 100)
    assert source.sizes == ()
    source.close()


def test_what_is_taken_is_paid_off_at_the_rate(tmp_path: Path) -> None:
    rate = SharedRate(tmp_path / "rate", 1000.0)
    before, first, after = time.monotonic(), rate.take(500), time.monotonic()
    assert before - 1e-6 <= first - 0.5 <= after + 1e-6
    assert rate.take(1500) - first == pytest.approx(1.5)
    rate.close()
    rate.close()


def test_all_who_open_the_file_share_one_rate(tmp_path: Path) -> None:
    one, other = (SharedRate(tmp_path / "rate", 1000.0) for _ in range(2))
    assert other.take(1000) - one.take(1000) == pytest.approx(-1.0)
    one.close()
    other.close()


def _read_all(rank: int, folder: str) -> None:
    rate = SharedRate(Path(folder) / "rate", 1e6)
    source = ThrottledSource(MemorySource([bytes(10_000)] * 10), rate)
    for chunk in range(10):
        source.read(chunk, memoryview(bytearray(10_000)))
    assert source.digest(0) == hashlib.sha256(bytes(10_000)).digest()


def test_processes_share_one_rate(tmp_path: Path) -> None:
    began = time.monotonic()
    assert in_processes(3, _read_all, str(tmp_path)) == [0, 0, 0]
    assert time.monotonic() - began >= 0.29


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
