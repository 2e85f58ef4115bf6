"""When one rank fails, all end soon, with one error that names it and the chunk, and nothing is left open."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore, PrefixStore, TCPStore

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.gather import sparse_all_gather
from symmoe.loading.collectives.group import Alarm, GatherGroup, open_group
from symmoe.loading.collectives.plan import GatherPlan

from .ranks import (
    LINGER_SECONDS,
    Ended,
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

CHUNKS = chunks_of(*[5000] * 12)
MANY = chunks_of(*[50] * 404)
ALL = range(len(CHUNKS))
PLAN = planned([ALL] * 3, CHUNKS)
FAULTY = next(each.chunk for each in PLAN.rounds[1] if each.owner == 1)
SOON_SECONDS = 25  # a group waits 30 s, a gather 60, where nobody says that a rank is lost


def fails(buffer: memoryview) -> None:
    raise OSError(5, "Input/output error")


def is_altered(buffer: memoryview) -> None:
    buffer[7] ^= 1


def sources(befalls: Callable[[memoryview], None], **faulty: object) -> list[MemorySource]:
    """Rank 1 has the faulty source."""
    bad = MemorySource(CHUNKS, {FAULTY: befalls}, **faulty)  # type: ignore[arg-type]
    return [MemorySource(CHUNKS), bad, MemorySource(CHUNKS)]


def expect_everywhere(ended: list[Ended], rank: int, chunk: int | None, said: str) -> None:
    assert len({str(each.error) for each in ended}) == 1
    for each in ended:
        assert isinstance(each.error, CollectiveError)
        assert (each.error.rank, each.error.chunk) == (rank, chunk)
        assert said in str(each.error)
        assert each.error.hint
        assert each.closed


def test_a_rank_that_cannot_read_ends_all() -> None:
    began = time.monotonic()
    ended = gathered(PLAN, sources(fails))
    assert time.monotonic() - began < SOON_SECONDS
    expect_everywhere(ended, 1, FAULTY, f"rank 1, chunk {FAULTY}: could not be read: OSError(5, 'Input/output error')")
    assert isinstance(ended[1].error.__cause__, OSError)


def test_a_chunk_that_is_read_corrupt_ends_all() -> None:
    expect_everywhere(gathered(PLAN, sources(is_altered)), 1, FAULTY, "is corrupt")


def test_receivers_find_what_the_reader_did_not() -> None:
    import hashlib

    altered = bytearray(CHUNKS[FAULTY])
    is_altered(memoryview(altered))
    deceived = sources(is_altered, digests={FAULTY: hashlib.sha256(altered).digest()})
    ended = gathered(PLAN, deceived)
    expect_everywhere(ended, 1, FAULTY, "is corrupt")
    assert "found by rank 1" not in str(ended[0].error)


def test_a_chunk_that_the_manifest_does_not_give_ends_all() -> None:
    ended = gathered(PLAN, sources(lambda _: None, digests={FAULTY: None}))
    expect_everywhere(ended, 1, FAULTY, "has no sha256 in its manifest")


def test_a_manifest_that_cannot_be_asked_ends_all() -> None:
    class Unasked(MemorySource):
        def digest(self, chunk: int) -> bytes | None:
            raise KeyError(chunk)

    ended = gathered(PLAN, [MemorySource(CHUNKS), Unasked(CHUNKS), MemorySource(CHUNKS)])
    assert {str(each.error) for each in ended} == {str(ended[0].error)}
    assert "could not be checked: KeyError" in str(ended[0].error)


def test_after_a_failure_no_threads_and_no_sockets_are_left_while_the_errors_are_kept() -> None:
    gathered(PLAN, sources(fails))
    before = threads_and_files()
    kept = [gathered(PLAN, sources(befalls)) for befalls in (fails, is_altered, fails)]
    assert left_over(before) == {}
    assert all(each.error for ended in kept for each in ended)


def test_where_a_rank_is_lost_nobody_waits_until_it_has_heard_that_others_are_done() -> None:
    gone, waited = threading.Event(), []

    class Word:
        """What is heard breaks off; what is sent to a connection that closes may never end."""

        def __init__(self, sent: bool) -> None:
            self.sent = sent

        def wait(self, patience: object) -> bool:
            waited.append(self.sent)
            assert self.sent or gone.wait(LINGER_SECONDS)
            raise RuntimeError("closed")

    class Breaking(GatherGroup):
        def hear_done(self, peer: int) -> Word:
            return Word(sent=False)

        def say_done(self, peer: int) -> Word:
            gone.set()
            return Word(sent=True)

        def break_off(self) -> None:
            pass

    store = HashStore()
    PrefixStore("gather/1", store).set("plan/1", "of both")
    alarm = Alarm(Breaking(store, 0, 2, torch.device("cpu")), LINGER_SECONDS, lambda rank: None)
    alarm.start("of both")
    with pytest.raises(CollectiveError, match="rank 1: the rank is gone"):
        alarm.finish()
    alarm.stop()
    assert waited == [False]


def test_a_rank_that_hangs_ends_all_when_time_is_up_and_is_the_one_named() -> None:
    released = threading.Event()
    done = threading.Barrier(2, action=released.set)

    def hangs(buffer: memoryview) -> None:
        assert released.wait(LINGER_SECONDS)

    faulty = sources(hangs)

    def act(rank: int, group: GatherGroup) -> Ended:
        ended = Ended({})
        try:
            sparse_all_gather(places(PLAN, rank), PLAN, faulty[rank], group, timeout=0.3)
        except CollectiveError as error:
            ended.error = error
        ended.closed = group.closed
        if rank != 1:
            done.wait(SOON_SECONDS)
        return ended

    ended = in_threads(3, act)
    expect_everywhere(ended, 1, FAULTY, "nothing came of it within 0.3 s")


def test_a_rank_that_never_comes_is_named() -> None:
    waited = threading.Barrier(3)

    def act(rank: int, group: GatherGroup) -> Ended:
        ended = Ended({}, closed=True)
        try:
            if rank != 2:
                sparse_all_gather(places(PLAN, rank), PLAN, MemorySource(CHUNKS), group, timeout=0.3)
        except CollectiveError as error:
            ended.error = error
        waited.wait(SOON_SECONDS)  # rank 2 keeps its connections until the others are done
        return ended

    expect_everywhere(in_threads(3, act)[:2], 2, None, "rank 2: did not come within 0.3 s")


def test_ranks_with_different_plans_do_not_start() -> None:
    other = planned([ALL, {0}, ALL], CHUNKS)
    source = [MemorySource(CHUNKS) for _ in range(3)]
    expect_everywhere(gathered([PLAN, other, PLAN], source), 1, None, "was given another plan than rank 0")
    assert not any(each.reads for each in source)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (None, "cannot be filled: KeyError"),
        (torch.empty(3, dtype=torch.uint8), "is of 5000 bytes, but 3 were set aside for it"),
        (torch.empty(5000, 2, dtype=torch.uint8)[:, 0], "not contiguous"),
        (memoryview(bytes(5000)), "read-only"),
    ],
    ids=["missing", "short", "strided", "read-only"],
)
def test_a_place_that_cannot_take_its_chunk_ends_all(place: torch.Tensor | memoryview | None, said: str) -> None:
    def act(rank: int, group: GatherGroup) -> None:
        out: dict[int, torch.Tensor | memoryview] = dict(places(PLAN, rank))
        if rank == 2:
            del out[4]
            out |= {} if place is None else {4: place}
        sparse_all_gather(out, PLAN, MemorySource(CHUNKS), group)

    for error in in_threads(3, act):
        assert isinstance(error, CollectiveError)
        assert (error.rank, error.chunk) == (2, 4)
        assert said in str(error)


def test_an_interrupted_rank_ends_the_others_and_stays_interrupted() -> None:
    def interrupts(buffer: memoryview) -> None:
        raise KeyboardInterrupt

    faulty = sources(interrupts)

    def act(rank: int, group: GatherGroup) -> str:
        try:
            sparse_all_gather(places(PLAN, rank), PLAN, faulty[rank], group)
        except KeyboardInterrupt:
            return "interrupted"
        except CollectiveError as error:
            return str(error)
        return "done"

    ended = in_threads(3, act)
    assert ended[1] == "interrupted"
    assert ended[0] == ended[2] == "rank 1: ended early: KeyboardInterrupt() (found by rank 1)"


def test_after_a_failure_the_same_store_serves_another_group() -> None:
    store, faulty = HashStore(), sources(fails)

    def act(rank: int, _: GatherGroup) -> list[str]:
        said = []
        for source in (faulty[rank], MemorySource(CHUNKS)):
            with open_group(store, rank, 3) as group:
                try:
                    sparse_all_gather(places(PLAN, rank), PLAN, source, group)
                    said.append("done")
                except CollectiveError as error:
                    said.append(str(error).split(":")[0])
        return said

    assert in_threads(3, act) == [[f"rank 1, chunk {FAULTY}", "done"]] * 3


def test_a_failure_of_one_of_independent_ranks_is_its_own() -> None:
    plan = planned([ALL] * 3, CHUNKS, "independent")
    ended = gathered(plan, sources(is_altered))
    assert [each.error is None for each in ended] == [True, False, True]
    assert (ended[1].error.rank, ended[1].error.chunk) == (1, FAULTY)
    assert not ended[1].closed


class Fatal(MemorySource):
    """Kills its process, by a signal that it cannot handle, instead of reading once more."""

    def __init__(self, folder: str, reads: int, chunks: Sequence[bytes] = MANY) -> None:
        super().__init__(chunks)
        self._folder, self._left = folder, reads

    def read(self, chunk: int, buffer: memoryview) -> None:
        if not self._left:
            note(self._folder, 99, str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        super().read(chunk, buffer)


class Slow(MemorySource):
    """Takes its time."""

    def read(self, chunk: int, buffer: memoryview) -> None:
        time.sleep(0.1)
        super().read(chunk, buffer)


def _gather_until_an_error(rank: int, folder: str, port: int, plan: GatherPlan, killed: int, hosts: bool) -> None:
    ranks = len(plan.demand)
    master = hosts and rank == killed
    if hosts:
        if master:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            (Path(folder) / "port.part").write_text(str(store.port))
            (Path(folder) / "port.part").rename(Path(folder) / "port")
        else:
            while not (Path(folder) / "port").exists():
                time.sleep(0.01)
            store = TCPStore("127.0.0.1", int((Path(folder) / "port").read_text()))
    else:
        store = TCPStore("127.0.0.1", port)
    source = Fatal(folder, 1) if rank == killed else Slow(MANY) if ranks == 4 else MemorySource(MANY)
    with open_group(store, rank, ranks) as group:
        try:
            sparse_all_gather(places(plan, rank), plan, source, group)
        except CollectiveError as error:
            note(folder, rank, json.dumps([error.rank, error.chunk, str(error), time.monotonic()]))


def _die_in_mid_chunk(rank: int, folder: str, port: int, plan: GatherPlan) -> None:
    large = [bytes(size) for size in plan.sizes]
    source: MemorySource = Fatal(folder, 1, large) if rank == 2 else MemorySource(large)
    with open_group(TCPStore("127.0.0.1", port), rank, 3) as group:
        try:
            sparse_all_gather(places(plan, rank), plan, source, group)
        except CollectiveError as error:
            note(folder, rank, json.dumps([error.rank, time.monotonic()]))


def test_a_rank_killed_while_its_chunk_is_on_its_way_ends_all_others_soon(tmp_path: Path) -> None:
    plan = planned([range(6)] * 3, [bytes(12 << 20)] * 6)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert in_processes(3, _die_in_mid_chunk, str(tmp_path), store.port, plan) == [0, 0, -signal.SIGKILL]
    died = float((tmp_path / "rank-99").read_text())
    for rank in range(2):
        at_fault, ended = json.loads((tmp_path / f"rank-{rank}").read_text())
        assert at_fault == 2
        assert ended - died < SOON_SECONDS


@pytest.mark.parametrize("hosts", [False, True], ids=["another hosts the store", "it hosts the store"])
@pytest.mark.parametrize("apart", [False, True], ids=["all exchange", "two pairs that do not"])
def test_a_killed_rank_ends_all_others_soon(tmp_path: Path, apart: bool, hosts: bool) -> None:
    # a pair that nothing told of the death would go on for 20 seconds
    demand = [range(400), range(400), range(400, 404), range(400, 404)] if apart else [range(40)] * 3
    plan = planned(demand, MANY)
    killed = len(demand) - 1
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    codes = in_processes(len(demand), _gather_until_an_error, str(tmp_path), store.port, plan, killed, hosts)
    assert codes == [0] * killed + [-signal.SIGKILL]
    died = float((tmp_path / "rank-99").read_text())
    for rank in range(killed):
        at_fault, chunk, said, ended = json.loads((tmp_path / f"rank-{rank}").read_text())
        assert ended - died < SOON_SECONDS
        if not hosts:  # without a store each rank tells what it sees, which may be another's end
            assert at_fault == killed
            assert isinstance(chunk, int)
            assert "is gone" in said
