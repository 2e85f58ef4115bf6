"""Brings a checkpoint from storage that machines share into each machine's own memory, every byte read once.

Processes of one machine share a copy under a lock. Machines that want the same checkpoint at about the same time meet,
measure together how fast the storage is, and gather (`collectives`) where that is predicted to pay. If anything fails,
the original directory is returned: reading it plainly is never wrong, only slower.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from symmoe.errors import CheckpointError, CollectiveError
from symmoe.loading.collectives.gather import GatherStats, sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup, open_group
from symmoe.loading.collectives.plan import GatherPlan, Topology, plan_gather
from symmoe.loading.collectives.source import PackedSource
from symmoe.private import private_folder
from symmoe.types import Joint, Rates

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

CHUNK_BYTES = 8 << 20
_PROBE_CHUNKS = 2
_LINK_BYTES, _LINK_ROUNDS = 8 << 20, 3
HOT = "its files are in the page cache"
_HOT = 0.9
_FRESH_SECONDS = 86_400.0
"""What was measured longer ago is measured again."""
_CONNECT_SECONDS, _SPARE_SECONDS, _SLOWER = 20.0, 5.0, 2.0
"""A gather may take so many times what was predicted, and so many seconds more, before it is given up."""
_MEMORY_SHARE = 0.5
_SAMPLE_BYTES = 1 << 20
_VOID = ctypes.c_void_p
_WHOLE = "staged.json"


@dataclass(frozen=True, slots=True)
class Seat:
    """A machine's place in a meeting: its rank of `size`, and the meeting's number."""

    rank: int
    size: int
    number: int


class Meeting(Protocol):
    """Lets machines that want the same thing at about the same time find each other."""

    def come(self, key: str, joint: Joint) -> None:
        """Announce that a worker of a joint step has arrived but does not take part in the meeting."""
        ...

    def meet(self, key: str, machine: str, joint: Joint | None) -> Seat:
        """Wait for other machines that want `key`, a few seconds at most; if none comes, the seat's size is 1.

        For a joint step, wait until all its workers are there, up to its patience.
        """
        ...

    def open(self, number: int, address: str) -> None:
        """Publish the address on which the first rank of a meeting listens."""
        ...

    def address(self, number: int) -> str:
        """The first rank's address, `HOST:PORT`; waits for it. Raises `CollectiveError` if that takes too long."""
        ...


@dataclass(frozen=True, slots=True)
class Staged:
    """The directory to read a checkpoint of `nbytes` from, how it came there and why, and the bytes moved.

    `rates` are the bandwidths that the machines that met measured or knew.
    """

    directory: Path
    way: str
    reason: str
    seconds: float = 0.0
    read: int = 0
    received: int = 0
    nbytes: int = 0
    rates: Rates | None = None

    @property
    def saved(self) -> float:
        """Seconds saved against reading alone at those rates; negative where it only cost time."""
        alone_seconds = self.nbytes / self.rates.alone if self.rates and self.way != "plain" else 0.0
        return alone_seconds - self.seconds


@dataclass(frozen=True, slots=True)
class Place:
    """This machine: its name, the address at which others reach it, and memory for copies."""

    machine: str
    host: str
    folder: Path


class FilesSource(PackedSource):
    """The weight files of a directory, for which there is no manifest of chunks."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(files, CHUNK_BYTES)


class Staging:
    """Brings checkpoints to this machine. `source` opens the weight files; measurements pass a throttled one."""

    def __init__(
        self,
        place: Place,
        meeting: Meeting,
        free: Callable[[], int],
        source: Callable[[Sequence[Path]], Any] = FilesSource,
        hot: Callable[[Sequence[Path]], float] | None = None,
    ) -> None:
        self._place, self._meeting, self._free, self._source = place, meeting, free, source
        self._hot = resident if hot is None else hot
        self._held: list[int] = []
        private_folder(place.folder)
        _sweep(place.folder)

    def stage(self, directory: Path, joint: Joint | None = None) -> Staged:
        """The directory to read a checkpoint from, a copy in this machine's memory or the given one, and why.

        `joint` is the joint step that this belongs to, if a plan knows one; a step of one worker meets nobody.
        """
        files = sorted(directory.glob("*.safetensors"))
        nbytes = sum(file.stat().st_size for file in files)
        copy = self._place.folder / _key(directory, files)
        report_absence, began = partial(self._there, copy.name, joint), time.perf_counter()
        if not files or self._hot(files) >= _HOT:
            report_absence()
            return Staged(directory, "plain", HOT)
        if nbytes > self._free() * _MEMORY_SHARE:
            report_absence()
            return Staged(directory, "plain", f"no memory for a copy of {nbytes >> 20} MiB on this machine")
        with _locked(copy.with_suffix(".lock"), report_absence) as waited:
            if not (copy / _WHOLE).exists():
                if waited:
                    seconds = time.perf_counter() - began
                    return Staged(directory, "plain", "another process of this machine brought no copy of it", seconds)
                staged = self._bring(directory, files, copy, joint)
                if staged.way != "gathered":
                    return staged
            else:
                rates = Rates(**json.loads((copy / _WHOLE).read_text(encoding="utf-8")))
                reason, seconds = "another process of this machine has brought it", time.perf_counter() - began
                staged = Staged(copy, "shared", reason, seconds, nbytes=nbytes, rates=rates)
            self._held.append(_hold(copy))
        return staged

    def _there(self, key: str, joint: Joint | None) -> None:
        """Tell those who wait for all workers of a joint step that this one does not meet them."""
        if joint is not None and joint.workers > 1:
            with suppress(CollectiveError):
                self._meeting.come(key, joint)

    def close(self) -> None:
        """Release the copies; the last process of this machine to do so removes them."""
        while self._held:
            os.close(self._held.pop())
        _sweep(self._place.folder)

    def _bring(self, directory: Path, files: Sequence[Path], copy: Path, joint: Joint | None) -> Staged:
        if joint is not None and joint.workers < 2:
            return Staged(directory, "plain", "no other worker of the plan begins with it now")
        began = time.perf_counter()
        plain = partial(Staged, directory, "plain")
        source, half = self._source(files), copy.with_suffix(".partial")
        try:
            seat = self._meeting.meet(copy.name, self._place.machine, joint)
            if seat.size < 2:
                return plain("no other machine wants it now", time.perf_counter() - began)
            with self._group(seat) as (group, store):
                rates = _measured(source, group, store, joint.rates if joint else None, time.perf_counter())
                plan = plan_gather([range(len(source.sizes))] * seat.size, source.sizes, _topology(rates, seat.size))
                if plan.mode == "independent":
                    seconds = time.perf_counter() - began
                    return plain(plan.reason, seconds, nbytes=sum(source.sizes), rates=rates)
                traffic = _gather(source, files, half, plan, group)
        except (CollectiveError, CheckpointError, OSError) as error:
            shutil.rmtree(half, ignore_errors=True)
            return plain(f"gathering failed: {error}", time.perf_counter() - began)
        finally:
            source.close()
        _complete(directory, half, copy, rates)
        reason, seconds = f"read once by {seat.size} machines; {plan.reason}", time.perf_counter() - began
        return Staged(copy, "gathered", reason, seconds, traffic.read, traffic.received, sum(source.sizes), rates)

    @contextmanager
    def _group(self, seat: Seat) -> Iterator[tuple[GatherGroup, TCPStore]]:
        store = self._store(seat)
        with open_group(store, seat.rank, seat.size, address=self._place.host, timeout=_CONNECT_SECONDS) as group:
            yield group, store

    def _store(self, seat: Seat) -> TCPStore:
        """Where the ranks of a meeting leave word: the first one's, at this machine's address and no other."""
        from datetime import timedelta

        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        patience = timedelta(seconds=_CONNECT_SECONDS)
        if seat.rank:
            host, _, port = self._meeting.address(seat.number).rpartition(":")
            try:
                return TCPStore(host, int(port), timeout=patience)
            except RuntimeError as error:
                raise CollectiveError(f"the first machine was not reached at {host}:{port}") from error
        listening = socket.create_server((self._place.host, 0))
        port = listening.getsockname()[1]
        store = TCPStore(
            self._place.host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=patience,
            master_listen_fd=listening.detach(),
            use_libuv=True,
        )
        self._meeting.open(seat.number, f"{self._place.host}:{port}")
        return store


def resident(files: Sequence[Path]) -> float:
    """The share of some files that is in this machine's page cache, 0..1, judged by one MiB in every sixteen.

    0 where it cannot be determined.
    """
    import numpy as np

    libc = ctypes.CDLL(None, use_errno=True)
    flags = np.zeros(_SAMPLE_BYTES // mmap.PAGESIZE, dtype=np.uint8)
    resident_pages = total = 0
    for path in files:
        size = path.stat().st_size
        if not size:
            continue
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as pages,
        ):
            address = _address(pages)
            for begin in range(0, size, 16 * _SAMPLE_BYTES):
                length = min(_SAMPLE_BYTES, size - begin)
                if libc.mincore(ctypes.c_void_p(address + begin), ctypes.c_size_t(length), flags.ctypes.data_as(_VOID)):
                    return 0.0
                count = -(-length // mmap.PAGESIZE)
                resident_pages += int((flags[:count] & 1).sum())
                total += count
    return resident_pages / total if total else 0.0


def _address(pages: mmap.mmap) -> int:
    import numpy as np

    return int(np.frombuffer(pages, dtype=np.uint8).ctypes.data)


def _topology(rates: Rates, machines: int) -> Topology:
    device = (float("inf"),) * machines
    return Topology(device, peer=rates.link, storage=rates.storage, storage_per_rank=rates.alone)


def _measured(source: Any, group: GatherGroup, store: TCPStore, known: Rates | None, began: float) -> Rates:
    """What storage and link give: as all ranks know of not long ago, else as they measure it now.

    First one rank alone reads two chunks, then each reads two of its own at once, then some bytes travel between all.
    """
    fresh = known is not None and time.time() - known.measured < _FRESH_SECONDS
    if known is not None and all(_exchanged(store, group, "known", fresh)):
        return Rates(**_exchanged(store, group, "rates", asdict(known))[0])
    count = len(source.sizes)
    last = range(max(0, count - _PROBE_CHUNKS), count)
    single_rate = _exchanged(store, group, "alone", _read_rate(source, last) if group.rank == 0 else 0.0)[0]
    probes = [chunk for chunk in range(count) if chunk % group.size == group.rank][:_PROBE_CHUNKS]
    group_rate = sum(_exchanged(store, group, "storage", _read_rate(source, probes)))
    link = min(_exchanged(store, group, "link", max(_link(group) for _ in range(_LINK_ROUNDS))))
    overheads = _exchanged(store, group, "overhead", [time.perf_counter() - began, time.time()])
    return Rates(
        max(single_rate, group_rate / group.size),
        group_rate,
        link,
        max(spent for spent, _ in overheads),
        overheads[0][1],
    )


def _read_rate(source: Any, chunks: Sequence[int]) -> float:
    """Bytes a second of reading some chunks."""
    buffer = memoryview(bytearray(max(source.sizes)))
    began = time.perf_counter()
    for chunk in chunks:
        source.read(chunk, buffer[: source.sizes[chunk]])
    nbytes: int = sum(source.sizes[chunk] for chunk in chunks)
    return max(nbytes, 1) / max(time.perf_counter() - began, 1e-6)


def _link(group: GatherGroup) -> float:
    """Bytes a second that a rank receives while all send, from a gather of a few that nobody reads."""
    sizes = [_LINK_BYTES // group.size] * group.size
    plan = plan_gather([range(group.size)] * group.size, sizes, Topology((1.0,) * group.size, 1e12), "grouped")
    out = {chunk: memoryview(bytearray(size)) for chunk, size in enumerate(sizes)}
    began = time.perf_counter()
    sparse_all_gather(out, plan, _Nothing(), group, timeout=_CONNECT_SECONDS, checksum=False)
    return sum(sizes) * (group.size - 1) / group.size / max(time.perf_counter() - began, 1e-6)


class _Nothing:
    """Chunks whose content does not matter."""

    def read(self, chunk: int, buffer: memoryview) -> None:
        """Leave the buffer as it is."""

    def digest(self, chunk: int) -> bytes | None:
        """There is none."""
        return None


def _exchanged(store: TCPStore, group: GatherGroup, what: str, value: Any) -> list[Any]:
    """What each rank says, by rank. Raises `CollectiveError` if one says nothing."""
    try:
        store.set(f"staging/{what}/{group.rank}", json.dumps(value))
        return [json.loads(store.get(f"staging/{what}/{rank}")) for rank in range(group.size)]
    except RuntimeError as error:
        raise CollectiveError(f"a machine left while it measured ({str(error).splitlines()[0]})") from error


def _gather(source: Any, files: Sequence[Path], partial: Path, plan: GatherPlan, group: GatherGroup) -> GatherStats:
    """Fill copies of the files in `partial`, mapped into memory. Raises `CollectiveError`."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    maps = []
    try:
        for file in files:
            with (partial / file.name).open("w+b") as made:
                made.truncate(file.stat().st_size)
                maps.append(mmap.mmap(made.fileno(), 0))
        out = {}
        for chunk in range(len(plan.sizes)):
            number, begin, size = source.place(chunk)
            out[chunk] = memoryview(maps[number])[begin : begin + size]
        seconds = plan.grouped_seconds or 0.0
        wait = _SLOWER * seconds + _SPARE_SECONDS
        return sparse_all_gather(out, plan, source, group, timeout=wait, checksum="arrival")
    finally:
        out = {}
        for each in maps:
            with suppress(BufferError):  # a failed gather may hold a view for a moment longer; it dies with it
                each.close()


def _complete(directory: Path, partial: Path, copy: Path, rates: Rates) -> None:
    """Add what lies beside the weights, and give the copy its name: it is whole or not there."""
    for file in directory.iterdir():
        if file.is_file() and not (partial / file.name).exists():
            shutil.copyfile(file, partial / file.name)
    (partial / _WHOLE).write_text(json.dumps(asdict(rates)), encoding="utf-8")
    shutil.rmtree(copy, ignore_errors=True)
    os.replace(partial, copy)


def _key(directory: Path, files: Sequence[Path]) -> str:
    """The same on every machine for the same files; other bytes have another size or time."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([directory.name, facts]).encode()).hexdigest()[:20]


@contextmanager
def _locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold a lock. Where another process has it, `waiting` is called first, and true given."""
    with path.open("w") as lock:
        waited = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
            waited = True
        yield waited


def _hold(copy: Path) -> int:
    """Say that this process uses a copy, as long as the file that is given stays open."""
    file = os.open(copy / _WHOLE, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _sweep(folder: Path) -> None:
    """Remove copies that no living process uses; the kernel lets go of what a killed one held."""
    for whole in folder.glob(f"*/{_WHOLE}"):
        with suppress(OSError), _locked(whole.parent.with_suffix(".lock")), whole.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(whole.parent, ignore_errors=True)
