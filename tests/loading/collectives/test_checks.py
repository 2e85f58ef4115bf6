from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.checks import Checks

from .ranks import MemorySource, chunks_of

CHUNKS = chunks_of(300, 200, 0)


def tensor(chunk: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(chunk), dtype=torch.uint8) if chunk else torch.empty(0, dtype=torch.uint8)


class Reports:
    def __init__(self) -> None:
        self.made: list[tuple[int, int | None, str]] = []

    def __call__(self, rank: int, chunk: int | None, what: str) -> CollectiveError:
        self.made.append((rank, chunk, what))
        return CollectiveError(what, rank=rank, chunk=chunk)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def reader(reports: Reports) -> Iterator[Checks]:
    checks = Checks(MemorySource(CHUNKS), 0, reports)
    yield checks
    checks.stop()


@pytest.fixture
def receiver(reports: Reports) -> Iterator[Checks]:
    checks = Checks(MemorySource(CHUNKS), 1, reports)
    yield checks
    checks.stop()


def test_what_arrives_as_it_was_read_is_sound(reader: Checks, receiver: Checks, reports: Reports) -> None:
    for number, chunk in enumerate(CHUNKS):
        reader.read(number, tensor(chunk))
        receiver.arrived(0, number, tensor(chunk))
    receiver.compare([reader.said(), receiver.said()])
    assert reports.made == []


def test_a_bit_that_changes_on_the_way_is_found(reader: Checks, receiver: Checks) -> None:
    altered = bytearray(CHUNKS[1])
    altered[77] ^= 8
    reader.read(1, tensor(CHUNKS[1]))
    receiver.arrived(0, 1, tensor(bytes(altered)))
    said = [reader.said(), receiver.said()]
    with pytest.raises(CollectiveError, match="is corrupt") as caught:
        receiver.compare(said)
    assert (caught.value.rank, caught.value.chunk) == (0, 1)


def test_a_chunk_of_which_its_reader_says_nothing_is_not_taken_for_sound(reader: Checks, receiver: Checks) -> None:
    receiver.arrived(0, 1, tensor(CHUNKS[1]))
    receiver.said()
    with pytest.raises(CollectiveError, match="is corrupt"):
        receiver.compare([reader.said(), b""])


def test_another_rank_cannot_vouch_for_the_reader(reader: Checks, receiver: Checks) -> None:
    reader.read(1, tensor(CHUNKS[1]))
    receiver.arrived(2, 1, tensor(CHUNKS[1]))
    said = [reader.said(), receiver.said(), b""]
    with pytest.raises(CollectiveError, match="is corrupt"):
        receiver.compare(said)


def test_what_is_read_is_held_against_the_manifest(reader: Checks, reports: Reports) -> None:
    reader.read(1, tensor(CHUNKS[0][:200])).result()
    assert reports.made == [(0, 1, "is corrupt: its sha256 is not the one of its manifest")]
