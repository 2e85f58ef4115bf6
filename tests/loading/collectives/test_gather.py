from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import TCPStore

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.gather import Checks, sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup, open_group
from symmoe.loading.collectives.plan import Mode
from symmoe.types import to_json
from tests.loading.collectives.ranks import (
    MemorySource,
    chunks_of,
    gathered,
    in_processes,
    in_threads,
    left_over,
    note,
    places,
    planned,
    threads_and_files,
)

CHUNKS = chunks_of(*[5000] * 11, 1234, 0)
ALL = range(len(CHUNKS))


@settings(max_examples=25)
@given(
    st.lists(st.sets(st.integers(0, len(CHUNKS) - 1)), min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from(["grouped", "independent"]),
)
def test_each_rank_gets_what_it_demands_and_reads_what_the_plan_says(
    demand: list[set[int]], depth: int, mode: Mode
) -> None:
    plan = planned(demand, CHUNKS, mode)
    sources = [MemorySource(CHUNKS) for _ in demand]
    for rank, ended in enumerate(gathered(plan, sources, depth=depth)):
        assert {chunk: bytes(place.tolist()) for chunk, place in ended.out.items()} == {
            chunk: CHUNKS[chunk] for chunk in demand[rank]
        }
        assert sorted(sources[rank].reads) == sorted(each.chunk for each in plan.transfers if each.owner == rank)
        traffic = plan.traffic()
        assert (ended.stats.read, ended.stats.received) == (traffic.read[rank], traffic.received[rank])
        assert not ended.closed


def test_a_group_serves_one_gather_after_another() -> None:
    plans = [planned([ALL] * 3, CHUNKS), planned([{0}, {0, 1}, set()], CHUNKS), planned([ALL] * 3, CHUNKS)]

    def act(rank: int, group: GatherGroup) -> list[bool]:
        source = MemorySource(CHUNKS)
        right = []
        for plan in plans:
            out = places(plan, rank)
            sparse_all_gather(out, plan, source, group)
            right.append(all(bytes(out[chunk].tolist()) == CHUNKS[chunk] for chunk in plan.demand[rank]))
        return right

    assert in_threads(3, act) == [[True] * 3] * 3


def test_chunks_go_to_memoryviews_and_to_tensors_of_any_type() -> None:
    chunks = chunks_of(64, 64)
    arena = bytearray(64)
    weights = torch.zeros(4, 8, dtype=torch.bfloat16)
    plan = planned([{0, 1}, {0, 1}], chunks)

    def act(rank: int, group: GatherGroup) -> None:
        out = {0: memoryview(arena), 1: weights} if rank == 0 else places(plan, rank)
        sparse_all_gather(out, plan, MemorySource(chunks), group)

    assert in_threads(2, act) == [None, None]
    assert bytes(arena) == chunks[0]
    assert bytes(weights.view(-1).view(torch.uint8).tolist()) == chunks[1]


def test_a_rank_that_demands_nothing_reads_for_the_others() -> None:
    sources = [MemorySource(CHUNKS) for _ in range(3)]
    ended = gathered(planned([ALL, set(), set()], CHUNKS), sources)
    assert all(source.reads for source in sources)
    assert ended[0].stats.received == sum(ended[helper].stats.read for helper in (1, 2)) > 0


def test_without_checksums_no_digest_is_asked_for() -> None:
    none = dict.fromkeys(ALL)
    ended = gathered(planned([ALL] * 2, CHUNKS), [MemorySource(CHUNKS, digests=none)] * 2, checksum=False)
    assert [rank.error for rank in ended] == [None, None]


def test_without_a_manifest_what_arrives_is_held_against_what_was_read() -> None:
    none = dict.fromkeys(ALL)
    sources = [MemorySource(CHUNKS, digests=none)] * 2
    ended = gathered(planned([ALL] * 2, CHUNKS), sources, checksum="arrival")
    assert [rank.error for rank in ended] == [None, None]


def test_a_byte_that_changed_on_its_way_is_found_without_a_manifest() -> None:
    def fail(rank: int, chunk: int | None, why: str) -> CollectiveError:
        return CollectiveError(why, rank=rank, chunk=chunk)

    read, arrived = torch.zeros(64, dtype=torch.uint8), torch.zeros(64, dtype=torch.uint8)
    reader, receiver = (Checks(MemorySource(CHUNKS), rank, fail, manifest=False) for rank in (0, 1))
    reader.read(3, read)
    receiver.arrived(0, 3, arrived)
    words = [reader.checksums(), receiver.checksums()]
    receiver.compare(words)
    arrived[5] = 1
    receiver.arrived(0, 3, arrived)
    receiver.checksums()
    with pytest.raises(CollectiveError, match="is corrupt"):
        receiver.compare(words)
    reader.stop(), receiver.stop()


def test_a_closed_group_gathers_no_more() -> None:
    plan = planned([{0}, {0}], CHUNKS)

    def act(rank: int, group: GatherGroup) -> None:
        group.close()
        sparse_all_gather(places(plan, rank), plan, MemorySource(CHUNKS), group)

    for error in in_threads(2, act):
        assert isinstance(error, CollectiveError)
        assert "the group is closed" in str(error)


def test_a_plan_for_other_ranks_is_refused_and_the_group_stays_open() -> None:
    plan = planned([{0}, {0}, {0}], CHUNKS)

    def act(rank: int, group: GatherGroup) -> str:
        with pytest.raises(CollectiveError) as refused:
            sparse_all_gather(places(plan, rank), plan, MemorySource(CHUNKS), group)
        assert not group.closed
        return str(refused.value)

    assert in_threads(2, act) == ["the plan is for 3 ranks, the group of 2"] * 2


def test_gathers_leave_no_threads_and_no_sockets_behind() -> None:
    gathered(planned([ALL] * 3, CHUNKS), [MemorySource(CHUNKS)] * 3)
    before = threads_and_files()
    gathered(planned([ALL] * 3, CHUNKS), [MemorySource(CHUNKS)] * 3)
    assert left_over(before) == {}


def test_a_rank_that_comes_alone_is_told_in_time() -> None:
    from torch.distributed import HashStore

    with pytest.raises(CollectiveError, match=r"rank 0: the 2 ranks did not all connect within 0\.2 s"):
        open_group(HashStore(), 0, 2, timeout=0.2)


def test_gloo_is_not_given_what_it_cannot_carry() -> None:
    from torch.distributed import HashStore

    with pytest.raises(CollectiveError, match="gloo does not carry what is on cuda:0"):
        open_group(HashStore(), 0, 2, device="cuda:0")


def _gather_sparsely(rank: int, folder: str, port: int, size: int) -> None:
    chunks = chunks_of(*[1 << 18] * 12)
    demand = [{chunk for chunk in range(12) if (chunk + rank) % 3 or not rank} for rank in range(size)]
    plan = planned(demand, chunks)
    out = places(plan, rank)
    with open_group(TCPStore("127.0.0.1", port), rank, size) as group:
        stats = sparse_all_gather(out, plan, MemorySource(chunks), group)
    right = all(bytes(out[chunk].tolist()) == chunks[chunk] for chunk in demand[rank])
    note(folder, rank, json.dumps({"right": right, "planned": plan.traffic().read[rank], **to_json(stats)}))


@pytest.mark.parametrize("size", [2, 4])
def test_processes_gather_sparse_demands(tmp_path: Path, size: int) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert in_processes(size, _gather_sparsely, str(tmp_path), store.port, size) == [0] * size
    ends = [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in range(size)]
    assert all(end["right"] and end["read"] == end["planned"] for end in ends)
    assert sum(end["read"] for end in ends) == 12 << 18
    assert sum(end["received"] for end in ends) > 0


CHECKED = chunks_of(300, 200, 0)


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
    checks = Checks(MemorySource(CHECKED), 0, reports)
    yield checks
    checks.stop()


@pytest.fixture
def receiver(reports: Reports) -> Iterator[Checks]:
    checks = Checks(MemorySource(CHECKED), 1, reports)
    yield checks
    checks.stop()


def test_what_arrives_as_it_was_read_is_sound(reader: Checks, receiver: Checks, reports: Reports) -> None:
    for number, chunk in enumerate(CHECKED):
        reader.read(number, tensor(chunk))
        receiver.arrived(0, number, tensor(chunk))
    receiver.compare([reader.checksums(), receiver.checksums()])
    assert reports.made == []


def test_a_bit_that_changes_on_the_way_is_found(reader: Checks, receiver: Checks) -> None:
    altered = bytearray(CHECKED[1])
    altered[77] ^= 8
    reader.read(1, tensor(CHECKED[1]))
    receiver.arrived(0, 1, tensor(bytes(altered)))
    said = [reader.checksums(), receiver.checksums()]
    with pytest.raises(CollectiveError, match="is corrupt") as caught:
        receiver.compare(said)
    assert (caught.value.rank, caught.value.chunk) == (0, 1)


def test_a_chunk_of_which_its_reader_says_nothing_is_not_taken_for_sound(reader: Checks, receiver: Checks) -> None:
    receiver.arrived(0, 1, tensor(CHECKED[1]))
    receiver.checksums()
    with pytest.raises(CollectiveError, match="is corrupt"):
        receiver.compare([reader.checksums(), b""])


def test_another_rank_cannot_vouch_for_the_reader(reader: Checks, receiver: Checks) -> None:
    reader.read(1, tensor(CHECKED[1]))
    receiver.arrived(2, 1, tensor(CHECKED[1]))
    said = [reader.checksums(), receiver.checksums(), b""]
    with pytest.raises(CollectiveError, match="is corrupt"):
        receiver.compare(said)


def test_what_is_read_is_held_against_the_manifest(reader: Checks, reports: Reports) -> None:
    reader.read(1, tensor(CHECKED[0][:200])).result()
    assert reports.made == [(0, 1, "is corrupt: its sha256 is not the one of its manifest")]
