"""The host tier's memory: a shared mapping that dies with its process, its allocator, and pinning it for a GPU.

Linux only: sealed memory files, `posix_fallocate` and paths under `/proc`.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from symmoe.errors import CapacityError, CheckpointError

PAGE = mmap.PAGESIZE
_CGROUP = Path("/sys/fs/cgroup")
_SMALLER = "give the host tier fewer bytes"
_CHUNK = 64 << 30
_PORTABLE = 1  # pinned for every device of this process, not only the current one


class Allocator:
    """First fit over `capacity` bytes, in whole pages. Gaps lie between regions, so freed neighbours merge."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity // PAGE * PAGE
        self._regions: dict[int, int] = {}

    def allocate(self, nbytes: int) -> int | None:
        """Take the first gap that holds `nbytes`. Returns its offset, or None if there is none."""
        offset = self.place(nbytes)
        if offset is not None:
            self._regions[offset] = whole_pages(nbytes)
        return offset

    def free(self, offset: int) -> None:
        """Free a region."""
        del self._regions[offset]

    def place(self, nbytes: int, without: Collection[int] = ()) -> int | None:
        """The offset that `nbytes` would get if the regions at the offsets `without` were free, or None."""
        end = 0
        for offset in sorted(self._regions.keys() - without):
            if offset - end >= whole_pages(nbytes):
                return end
            end = offset + self._regions[offset]
        return end if self.capacity - end >= whole_pages(nbytes) else None


def whole_pages(nbytes: int) -> int:
    """The bytes that an image of `nbytes` occupies: whole pages, at least one."""
    return max(1, -(-nbytes // PAGE)) * PAGE


class Arena:
    """Shared memory of `nbytes`, committed on opening, so that a shortage is an error now and not a SIGBUS later.

    The memory has no name in any directory, so nothing is left behind however the process ends, and the size of
    /dev/shm does not limit it. Processes of the same user attach through `path` while this one holds it open, and none
    of them can shrink it. Raises `CapacityError`.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        _check_room(nbytes)
        try:
            self._file = _committed(nbytes)
        except OSError as error:
            raise CapacityError(
                f"{nbytes:,} bytes of memory cannot be reserved for the host tier ({error.strerror})", hint=_SMALLER
            ) from error
        self._memory = memoryview(mmap.mmap(self._file.fileno(), nbytes))
        self.path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def view(self, offset: int = 0, nbytes: int | None = None) -> memoryview:
        """The writable bytes of a region, by default of the whole arena."""
        return self._memory[offset : self.nbytes if nbytes is None else offset + nbytes]

    def close(self) -> None:
        """Free the memory once the last view of it and the last attached process are gone. Safe to call twice."""
        self._memory.release()
        self._file.close()


def attach(path: str, writable: bool = False) -> mmap.mmap:
    """Map another process's arena; `CheckpointError` if that process has closed it or ended.

    CUDA pins writable mappings on every device, read-only ones only on some.
    """
    try:
        with open(path, "r+b" if writable else "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no host tier to attach to ({error})", hint="the process that held it has closed it or ended"
        ) from error


def available_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that this process can still take: the machine's free memory, or its container's if that is less."""
    meminfo = _numbers(Path("/proc/meminfo"))
    free = meminfo["MemAvailable:"] * 1024
    with suppress(OSError, ValueError):  # no limit is set, or this is not a version 2 control group
        limit = int((cgroup / "memory.max").read_text(encoding="utf-8"))
        taken = int((cgroup / "memory.current").read_text(encoding="utf-8"))
        reclaimable = _numbers(cgroup / "memory.stat").get("inactive_file", 0)
        free = min(free, max(0, limit - taken + reclaimable))
    return free


def installed_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes of memory of this machine, or of its container if that has a lower limit."""
    whole = _numbers(Path("/proc/meminfo"))["MemTotal:"] * 1024
    with suppress(OSError, ValueError):
        whole = min(whole, int((cgroup / "memory.max").read_text(encoding="utf-8")))
    return whole


def _numbers(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def _check_room(nbytes: int) -> None:
    if nbytes < PAGE:
        raise CapacityError(f"a host tier of {nbytes} bytes holds nothing", hint=f"give it {PAGE} bytes or more")
    if nbytes > (free := available_memory()):
        raise CapacityError(f"{free:,} bytes of memory are free, the host tier is to have {nbytes:,}", hint=_SMALLER)


def _committed(nbytes: int) -> IO[bytes]:
    file = os.fdopen(os.memfd_create("symmoe-host-tier", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b")
    try:
        os.posix_fallocate(file.fileno(), 0, nbytes)
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def pinned(memory: memoryview, chunk: int = _CHUNK, cudart: Any = None) -> Iterator[bool]:
    """Register writable memory with CUDA for the with-block; False, with nothing done, where there is no GPU.

    Registering costs seconds per gigabyte on some machines, so do it once, at the start, in the process that copies to
    the GPU. All or nothing: `CapacityError` if CUDA refuses a chunk. CUDA also refuses a copy that crosses from one
    registration into another, so use large chunks, or keep copies within them.
    """
    runtime = cudart or _runtime()
    if runtime is None:
        yield False
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    registered: list[int] = []
    try:
        for address in range(start, start + memory.nbytes, chunk):
            size = min(chunk, start + memory.nbytes - address)
            if code := int(runtime.cudaHostRegister(address, size, _PORTABLE)):
                raise CapacityError(
                    f"CUDA cannot pin {size:,} bytes of host memory (cudaHostRegister gave {code})",
                    hint="raise the limit of locked memory (ulimit -l), or give the host tier fewer bytes",
                )
            registered.append(address)
        yield True
    finally:
        for address in registered:
            runtime.cudaHostUnregister(address)


def _runtime() -> Any:
    import torch

    return torch.cuda.cudart() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
