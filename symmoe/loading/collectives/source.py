"""Where chunks are read from."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from symmoe.errors import CheckpointError

_FREE_AT = struct.Struct("d")


class ChunkSource(Protocol):
    """Reads the chunks of one checkpoint; used by one rank of a gather, in one thread."""

    def read(self, chunk: int, buffer: memoryview) -> None:
        """Fill `buffer`, which has the chunk's size, with chunk number `chunk`."""
        ...

    def digest(self, chunk: int) -> bytes | None:
        """The chunk's sha256 in the manifest, 32 bytes; None if it has none. Safe from any thread."""
        ...


class PackedSource:
    """Files as chunks, numbered through: `chunk_bytes` each, the last of a file may be shorter, and none spans two.

    `digests` are the sha256 of the chunks, 32 bytes each, from the files' manifest.
    """

    def __init__(self, files: Path | Sequence[Path], chunk_bytes: int, digests: Sequence[bytes] = ()) -> None:
        self._files = [files] if isinstance(files, Path) else list(files)
        self._digests = digests
        self._open = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in self._files]
        self._chunks = [
            (number, begin, min(chunk_bytes, os.fstat(file).st_size - begin))
            for number, file in enumerate(self._open)
            for begin in range(0, os.fstat(file).st_size, chunk_bytes)
        ]
        self.sizes = tuple(size for _, _, size in self._chunks)
        """The bytes of each chunk."""

    def place(self, chunk: int) -> tuple[int, int, int]:
        """The number of a chunk's file, the chunk's offset there, and its bytes."""
        return self._chunks[chunk]

    def read(self, chunk: int, buffer: memoryview) -> None:
        """Read one chunk. Raises `CheckpointError` where its file ends before the chunk does."""
        number, begin, _ = self._chunks[chunk]
        done = 0
        while done < len(buffer):
            count = os.preadv(self._open[number], [buffer[done:]], begin + done)
            if count == 0:
                raise CheckpointError(f"{self._files[number]}: ends within chunk {chunk}: the file was truncated")
            done += count

    def digest(self, chunk: int) -> bytes | None:
        """The chunk's sha256 in the manifest, or None."""
        return self._digests[chunk] if self._digests else None

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        while self._open:
            os.close(self._open.pop())


class SharedRate:
    """A token bucket shared through a file by processes of one machine, which limits their bytes per second in all.

    The file holds the time, on the monotonic clock that all processes share, at which the bytes taken so far are paid
    off.
    """

    def __init__(self, path: Path, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, _FREE_AT.size)
        self._state = mmap.mmap(self._file, _FREE_AT.size)

    def take(self, count: int) -> float:
        """Take `count` bytes. Returns the time of the monotonic clock from which they may be used."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            (free_at,) = _FREE_AT.unpack_from(self._state)
            free_at = max(free_at, time.monotonic()) + count / self._rate
            _FREE_AT.pack_into(self._state, 0, free_at)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return float(free_at)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._file >= 0:
            self._state.close()
            os.close(self._file)
            self._file = -1


class ThrottledSource:
    """Another source behind a shared rate, as a model of storage that all ranks read from."""

    def __init__(self, source: ChunkSource, rate: SharedRate) -> None:
        self._source = source
        self._rate = rate

    def read(self, chunk: int, buffer: memoryview) -> None:
        """Read one chunk, no sooner than the shared rate allows."""
        ready = self._rate.take(len(buffer))
        self._source.read(chunk, buffer)
        time.sleep(max(0.0, ready - time.monotonic()))

    def digest(self, chunk: int) -> bytes | None:
        """The sha256 of one chunk, from the other source."""
        return self._source.digest(chunk)
