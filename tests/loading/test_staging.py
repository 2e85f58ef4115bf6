"""Machines, here threads with a folder each, that bring the same checkpoint into their memory together."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from symmoe.errors import CollectiveError
from symmoe.loading import staging
from symmoe.loading.collectives.source import SharedRate
from symmoe.loading.staging import FilesSource, Place, Seat, Staged, Staging, resident
from symmoe.types import Joint, Rates

GIB = 1 << 30
SIZES = {"model-1.safetensors": 3_000_017, "model-2.safetensors": 1_500_000}


class Table:
    """A meeting of so many machines, seated in the order of their coming; later ones are alone."""

    def __init__(self, size: int) -> None:
        self._size, self._came, self._all = size, 0, threading.Barrier(size)
        self._lock, self._opened, self._address = threading.Lock(), threading.Event(), ""
        self.came: list[Joint] = []

    def come(self, key: str, joint: Joint) -> None:
        self.came.append(joint)

    def meet(self, key: str, machine: str, joint: Joint | None) -> Seat:
        with self._lock:
            rank, self._came = self._came, self._came + 1
        if rank >= self._size:
            return Seat(0, 1, 2)
        self._all.wait(30)
        return Seat(rank, self._size, 1)

    def open(self, number: int, address: str) -> None:
        self._address = address
        self._opened.set()

    def address(self, number: int) -> str:
        assert self._opened.wait(30)
        return self._address


class Slow(FilesSource):
    """Files on storage that gives so many bytes a second to all machines together."""

    rate: SharedRate
    reads: list[int]

    def read(self, chunk: int, buffer: memoryview) -> None:
        ready = self.rate.take(len(buffer))
        super().read(chunk, buffer)
        time.sleep(max(0.0, ready - time.monotonic()))
        self.reads.append(len(buffer))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "volume" / "model"
    made.mkdir(parents=True)
    for name, size in SIZES.items():
        (made / name).write_bytes(os.urandom(size))
    (made / "config.json").write_text('{"model_type": "llama"}')
    return made


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Slow]:
    monkeypatch.setattr(staging, "CHUNK_BYTES", 100_000)
    Slow.rate, Slow.reads = SharedRate(tmp_path / "rate", 4e6), []
    return Slow


def machine(
    folder: Path, name: str, meeting: Table, source: Callable[[Sequence[Path]], object] = FilesSource, free: int = GIB
) -> Staging:
    return Staging(Place(name, "127.0.0.1", folder / name), meeting, lambda: free, source, hot=lambda files: 0.0)


def all_stage(machines: Sequence[Staging], directory: Path) -> list[Staged]:
    with ThreadPoolExecutor(len(machines)) as threads:
        return list(threads.map(lambda each: each.stage(directory), machines))


def same(copy: Path, directory: Path) -> bool:
    return all((copy / file.name).read_bytes() == file.read_bytes() for file in directory.iterdir())


def test_from_slow_storage_two_machines_read_every_byte_once_and_both_have_all(
    directory: Path, tmp_path: Path, slow: type[Slow]
) -> None:
    meeting = Table(2)
    machines = [machine(tmp_path, name, meeting, slow) for name in "ab"]
    found = all_stage(machines, directory)
    assert [each.way for each in found] == ["gathered", "gathered"], found
    assert all(same(each.directory, directory) for each in found)
    assert sum(each.read for each in found) == sum(SIZES.values())
    assert found[0].directory != found[1].directory
    assert "read once by 2 machines; predicted: a group" in found[0].reason
    for each in machines:
        each.close()
    assert not list(tmp_path.glob("[ab]/*/*")), "copies end with who uses them"


def test_machines_that_met_say_what_storage_and_link_gave(directory: Path, tmp_path: Path, slow: type[Slow]) -> None:
    meeting, nbytes = Table(2), sum(SIZES.values())
    found = all_stage([machine(tmp_path, name, meeting, slow) for name in "ab"], directory)
    rates = found[0].rates
    assert rates is not None
    assert found[1].rates == rates
    assert rates.alone == pytest.approx(4e6, rel=0.5)
    assert rates.storage == pytest.approx(4e6, rel=0.5)
    assert rates.measured == pytest.approx(time.time(), abs=60)
    assert all(each.nbytes == nbytes for each in found)
    assert all(each.saved == nbytes / rates.alone - each.seconds for each in found)
    beside = machine(tmp_path, "a", meeting, slow).stage(directory)
    assert (beside.way, beside.rates, beside.nbytes) == ("shared", rates, nbytes)


@pytest.mark.parametrize("age", [60.0, 2 * 86_400.0])
def test_what_was_measured_today_is_not_measured_again(
    age: float, directory: Path, tmp_path: Path, slow: type[Slow]
) -> None:
    meeting = Table(2)
    known = Rates(alone=1e6, storage=1e6, link=1e9, overhead=0.1, measured=time.time() - age)
    machines = [machine(tmp_path, name, meeting, slow) for name in "ab"]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda each: each.stage(directory, Joint(0, 2, 3.0, known)), machines))
    assert [each.way for each in found] == ["gathered", "gathered"], found
    again = age > 86_400
    assert all((each.rates == known) != again for each in found)
    assert (sum(slow.reads) > sum(SIZES.values())) == again, "measuring reads a few chunks twice"


def test_a_worker_with_whom_nobody_begins_meets_nobody(directory: Path, tmp_path: Path) -> None:
    found = machine(tmp_path, "a", Table(0)).stage(directory, Joint(-1, 1, 0.0))
    assert (found.way, found.reason) == ("plain", "no other worker of the plan begins with it now")


def test_one_of_those_who_begin_together_that_needs_nobody_says_that_it_is_there(
    directory: Path, tmp_path: Path
) -> None:
    meeting, joint = Table(2), Joint(0, 2, 3.0)
    Staging(Place("b", "127.0.0.1", tmp_path / "b"), meeting, lambda: GIB).stage(directory, joint)
    machine(tmp_path, "a", meeting, free=8_000_000).stage(directory, joint)
    assert meeting.came == [joint, joint]


def test_where_reading_alone_is_as_fast_the_files_are_read_where_they_lie(directory: Path, tmp_path: Path) -> None:
    meeting = Table(2)
    found = all_stage([machine(tmp_path, name, meeting) for name in "ab"], directory)
    assert [(each.way, each.directory) for each in found] == [("plain", directory)] * 2
    assert "independent copies" in found[0].reason


def test_processes_of_one_machine_share_its_copy(directory: Path, tmp_path: Path, slow: type[Slow]) -> None:
    meeting = Table(2)
    first, other = machine(tmp_path, "a", meeting, slow), machine(tmp_path, "b", meeting, slow)
    found = all_stage([first, other], directory)
    beside = machine(tmp_path, "a", meeting, slow)
    again = beside.stage(directory)
    assert (again.way, again.directory) == ("shared", found[0].directory)
    first.close()
    assert same(again.directory, directory), "whoever still uses it has it"
    beside.close()
    assert not again.directory.exists()


def test_where_the_first_process_of_a_machine_reads_plainly_the_next_meets_nobody_again(
    directory: Path, tmp_path: Path
) -> None:
    entered, released = threading.Event(), threading.Event()

    class Waiting(Table):
        def come(self, key: str, joint: Joint) -> None:
            super().come(key, joint)
            released.set()

        def meet(self, key: str, machine: str, joint: Joint | None) -> Seat:
            entered.set()
            assert released.wait(30)
            return Seat(0, 1, 1)

    meeting, joint = Waiting(2), Joint(0, 2, 3.0)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(machine(tmp_path, "a", meeting).stage, directory, joint)
        assert entered.wait(30)
        other = threads.submit(machine(tmp_path, "a", meeting).stage, directory, joint)
        assert (first.result().way, first.result().reason) == ("plain", "no other machine wants it now")
        assert other.result().reason == "another process of this machine brought no copy of it"


def test_one_that_comes_late_or_alone_reads_plainly(directory: Path, tmp_path: Path) -> None:
    found = machine(tmp_path, "late", Table(0)).stage(directory)
    assert (found.way, found.directory, found.reason) == ("plain", directory, "no other machine wants it now")


def test_a_machine_that_cannot_read_costs_the_others_no_answer(
    directory: Path, tmp_path: Path, slow: type[Slow]
) -> None:
    class Broken(slow):  # type: ignore[misc,valid-type]
        def read(self, chunk: int, buffer: memoryview) -> None:
            if len(slow.reads) > 20:
                raise OSError(5, "Input/output error")
            super().read(chunk, buffer)

    meeting = Table(2)
    found = all_stage([machine(tmp_path, "a", meeting, slow), machine(tmp_path, "b", meeting, Broken)], directory)
    assert [(each.way, each.directory) for each in found] == [("plain", directory)] * 2
    assert all("gathering failed" in each.reason and "could not be read" in each.reason for each in found), found
    assert not list(tmp_path.glob("[ab]/*.partial"))


def test_where_nobody_can_be_met_it_is_read_plainly(directory: Path, tmp_path: Path) -> None:
    class Nowhere(Table):
        def meet(self, key: str, machine: str, joint: Joint | None) -> Seat:
            raise CollectiveError("machines could not meet")

    found = machine(tmp_path, "a", Nowhere(2)).stage(directory)
    assert (found.way, found.reason) == ("plain", "gathering failed: machines could not meet")


def test_without_memory_for_a_copy_or_with_hot_files_nobody_is_asked(directory: Path, tmp_path: Path) -> None:
    scarce = machine(tmp_path, "a", Table(0), free=8_000_000).stage(directory)
    assert scarce.reason == "no memory for a copy of 4 MiB on this machine"
    hot = Staging(Place("b", "127.0.0.1", tmp_path / "b"), Table(0), lambda: GIB).stage(directory)
    assert hot.reason == "its files are in the page cache", "they were just written"


def test_what_the_page_cache_holds_is_told(directory: Path) -> None:
    files = sorted(directory.glob("*.safetensors"))
    assert resident(files) == 1.0
    assert resident([]) == 0.0


def test_a_copy_that_a_killed_process_left_is_removed_by_the_next(directory: Path, tmp_path: Path) -> None:
    left = tmp_path / "a" / "0123456789abcdef0123"
    left.mkdir(parents=True)
    (left / "staged.json").write_text("{}")
    machine(tmp_path, "a", Table(0))
    assert not left.exists()
