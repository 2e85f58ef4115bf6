"""A checkpoint brought from storage that machines share into each machine's own memory, every byte read once.

Processes of one machine share a copy under a lock. The machines that want the same checkpoint at about the same time
meet, measure together what storage gives them, and gather (`collectives`) where that is predicted to pay. Whatever goes
wrong, the answer is the directory as it was: reading it plainly is never wrong, only slower.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from symmoe.errors import CheckpointError, CollectiveError
from symmoe.loading.collectives.gather import sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup, open_group
from symmoe.loading.collectives.plan import GatherPlan, Topology, plan_gather
from symmoe.private import private_folder

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

CHUNK_BYTES = 8 << 20
_PROBE_CHUNKS = 2
_LINK_BYTES, _LINK_ROUNDS = 8 << 20, 3
_HOT = 0.9
_CONNECT_SECONDS, _SPARE_SECONDS, _SLOWER = 20.0, 5.0, 2.0
"""A gather may take so many times what was predicted, and so many seconds more, before it is given up."""
_MEMORY_SHARE = 0.5
_WHOLE = "staged.json"


@dataclass(frozen=True, slots=True)
class Seat:
    """A machine's place among those that meet: its rank of `size`, and the number of the meeting."""

    rank: int
    size: int
    number: int


class Meeting(Protocol):
    """Where machines that want the same thing at about the same time find each other."""

    def meet(self, key: str, machine: str) -> Seat:
        """Wait, a few seconds at most, for other machines that want `key`; one that nobody joins has a size of 1."""
        ...

    def open(self, number: int, address: str) -> None:
        """Say where the first rank of a meeting listens."""
        ...

    def address(self, number: int) -> str:
        """Where it listens, `HOST:PORT`; waits until it does. Raises `CollectiveError` if that takes too long."""
        ...


@dataclass(frozen=True, slots=True)
class Staged:
    """Where a checkpoint is to be read from, by which way it came there and why, and what that moved."""

    directory: Path
    way: str
    reason: str
    seconds: float = 0.0
    read: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """This machine: its name among the others, the address at which they reach it, and memory for copies."""

    machine: str
    host: str
    folder: Path


class FilesSource:
    """The weight files of a directory as chunks: none spans two files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._open = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in files]
        self._chunks = [
            (number, begin, min(CHUNK_BYTES, os.fstat(file).st_size - begin))
            for number, file in enumerate(self._open)
            for begin in range(0, os.fstat(file).st_size, CHUNK_BYTES)
        ]
        self.sizes = tuple(size for _, _, size in self._chunks)
        """The bytes of each chunk."""

    def place(self, chunk: int) -> tuple[int, int, int]:
        """Of a chunk the number of its file, where it begins there, and its bytes."""
        return self._chunks[chunk]

    def read(self, chunk: int, buffer: memoryview) -> None:
        """Read one chunk. Raises `CheckpointError` where its file became shorter."""
        number, begin, size = self._chunks[chunk]
        done = 0
        while done < size:
            count = os.preadv(self._open[number], [buffer[done:size]], begin + done)
            if count == 0:
                raise CheckpointError(f"a weight file ends within its chunk {chunk}: it was truncated")
            done += count

    def digest(self, chunk: int) -> bytes | None:
        """There is no manifest of chunks."""
        return None

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.pop())


class Staging:
    """Brings checkpoints to this machine. `source` opens the weight files, which a measurement may slow down."""

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

    def stage(self, directory: Path) -> Staged:
        """The directory to read a checkpoint from: a copy in this machine's memory, or the one given, and why."""
        files = sorted(directory.glob("*.safetensors"))
        nbytes = sum(file.stat().st_size for file in files)
        if not files or self._hot(files) >= _HOT:
            return Staged(directory, "plain", "its files are in the page cache")
        if nbytes > self._free() * _MEMORY_SHARE:
            return Staged(directory, "plain", f"no memory for a copy of {nbytes >> 20} MiB on this machine")
        copy = self._place.folder / _key(directory, files)
        with _locked(copy.with_suffix(".lock")):
            if not (copy / _WHOLE).exists():
                staged = self._bring(directory, files, copy)
                if staged.way != "gathered":
                    return staged
            else:
                staged = Staged(copy, "shared", "another process of this machine has brought it")
            self._held.append(_hold(copy))
        return staged

    def close(self) -> None:
        """Let go of the copies; the last process of this machine to do so removes them."""
        while self._held:
            os.close(self._held.pop())
        _sweep(self._place.folder)

    def _bring(self, directory: Path, files: Sequence[Path], copy: Path) -> Staged:
        began = time.perf_counter()
        source = self._source(files)
        try:
            seat = self._meeting.meet(copy.name, self._place.machine)
            if seat.size < 2:
                return Staged(directory, "plain", "no other machine wants it now", time.perf_counter() - began)
            with self._group(seat) as (group, store):
                plan = _planned(source, group, store)
                if plan.mode == "independent":
                    return Staged(directory, "plain", plan.reason, time.perf_counter() - began)
                partial = copy.with_suffix(".partial")
                traffic = _gather(source, files, partial, plan, group)
        except (CollectiveError, CheckpointError, OSError) as error:
            shutil.rmtree(copy.with_suffix(".partial"), ignore_errors=True)
            return Staged(directory, "plain", f"gathering failed: {error}", time.perf_counter() - began)
        finally:
            source.close()
        _complete(directory, partial, copy)
        reason = f"read once by {seat.size} machines; {plan.reason}"
        return Staged(copy, "gathered", reason, time.perf_counter() - began, traffic.read, traffic.received)

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
    """The share of some files that this machine's page cache holds, from 0 to 1; 0 where it cannot be told."""
    held = total = 0
    for path in files:
        size = path.stat().st_size
        if not size:
            continue
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as pages,
        ):
            count = -(-size // mmap.PAGESIZE)
            flags = (ctypes.c_ubyte * count)()
            libc = ctypes.CDLL(None, use_errno=True)
            address = _address(pages)
            if address is None or libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), flags):
                return 0.0
            held += sum(flag & 1 for flag in bytes(flags))
            total += count
    return held / total if total else 0.0


def _address(pages: mmap.mmap) -> int | None:
    import numpy as np

    return int(np.frombuffer(pages, dtype=np.uint8).ctypes.data)


def _planned(source: Any, group: GatherGroup, store: TCPStore) -> GatherPlan:
    """A plan from what all ranks measured at once: each reads two chunks of its own, then one travels between them."""
    buffer = memoryview(bytearray(max(source.sizes)))
    count = len(source.sizes)
    probes = [chunk for chunk in range(count) if chunk % group.size == group.rank][:_PROBE_CHUNKS]
    began = time.perf_counter()
    for chunk in probes:
        source.read(chunk, buffer[: source.sizes[chunk]])
    own = sum(source.sizes[chunk] for chunk in probes) / max(time.perf_counter() - began, 1e-6)
    link = max(_link(group) for _ in range(_LINK_ROUNDS))  # the first one also opens connections
    said = _exchanged(store, group, {"storage": own, "link": link})
    topology = Topology(
        device=(float("inf"),) * group.size,
        peer=min(each["link"] for each in said),
        storage=sum(each["storage"] for each in said),
        storage_per_rank=max(each["storage"] for each in said),
    )
    return plan_gather([range(count)] * group.size, source.sizes, topology)


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


def _exchanged(store: TCPStore, group: GatherGroup, own: dict[str, float]) -> list[dict[str, float]]:
    """What each rank says, by rank. Raises `CollectiveError` if one says nothing."""
    try:
        store.set(f"staging/{group.rank}", json.dumps(own))
        return [json.loads(store.get(f"staging/{rank}")) for rank in range(group.size)]
    except RuntimeError as error:
        raise CollectiveError(f"a machine left while it measured ({str(error).splitlines()[0]})") from error


@dataclass(frozen=True, slots=True)
class _Moved:
    read: int
    received: int


def _gather(source: Any, files: Sequence[Path], partial: Path, plan: GatherPlan, group: GatherGroup) -> _Moved:
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
        stats = sparse_all_gather(out, plan, source, group, timeout=wait, checksum=False)
        return _Moved(stats.read, stats.received)
    finally:
        out = {}
        for each in maps:
            with suppress(BufferError):  # a failed gather may hold a view for a moment longer; it dies with it
                each.close()


def _complete(directory: Path, partial: Path, copy: Path) -> None:
    """Add what lies beside the weights, and give the copy its name: it is whole or not there."""
    for file in directory.iterdir():
        if file.is_file() and not (partial / file.name).exists():
            shutil.copyfile(file, partial / file.name)
    (partial / _WHOLE).write_text("{}\n", encoding="utf-8")
    shutil.rmtree(copy, ignore_errors=True)
    os.replace(partial, copy)


def _key(directory: Path, files: Sequence[Path]) -> str:
    """The same on every machine for the same files; other bytes have another size or time."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([directory.name, facts]).encode()).hexdigest()[:20]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
