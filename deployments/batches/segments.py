"""Rows of batches that are not over, on the disk beside the files: the store only knows where each of them stands.

Each process appends to a segment of its own: two that both believe to run a batch spoil nothing of each other's. Which
row of a line counts is for the store to say. Rows of lines that were answered at about the same time are written in one
step.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from symmoe.limits import NAMES_AT_ONCE, ROW_CHUNK

from ..storage import Storage
from .batches import batch_key, lines_key
from .files import BATCH, is_id
from .store_access import patiently

if TYPE_CHECKING:
    from redis.asyncio import Redis


class LostRowError(Exception):
    """A row is not where it was written, or not as it was: its machine went down before it was on the disk."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a row stands: in which segment, from which byte on, its size in bytes and its CRC-32."""

    segment: str
    offset: int
    size: int
    check: int
    answered: bool

    def __str__(self) -> str:
        return f"{self.segment}:{self.offset}:{self.size}:{self.check}:{int(self.answered)}"

    @classmethod
    def read(cls, text: str) -> Spot:
        """A spot as it was written down."""
        segment, offset, size, check, answered = text.split(":")
        return cls(segment, int(offset), int(size), int(check), answered == "1")


@dataclass(slots=True)
class _Own:
    name: str
    number: int
    end: int = 0


class Segments:
    """The segments of batches, in a folder for each. All of it blocks on the disk and may raise `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: dict[str, _Own] = {}
        self._lock = threading.Lock()

    def write(self, batch: str, rows: Iterable[tuple[Sequence[str], bool]]) -> list[Spot]:
        """Append rows, each in parts and with whether it is an answer. Where that fails, nothing of them counts."""
        with self._lock:
            segment = self._own.get(batch) or self._begin(batch)
            spots, at = list[Spot](), segment.end
            for row, answered in rows:
                size = check = 0
                for part in _parts(row):
                    _write_all(segment.number, part, at + size)
                    size, check = size + len(part), zlib.crc32(part, check)
                spots.append(Spot(segment.name, at, size, check, answered))
                at += size
            segment.end = at
            return spots

    @contextmanager
    def reading(self, batch: str) -> Iterator[Reading]:
        """Read rows of a batch, whoever wrote them."""
        with ExitStack() as stack:
            yield Reading(self._of(batch), stack)

    def sync(self, batch: str) -> None:
        """Have all segments of a batch on the disk."""
        folder = self._of(batch)
        for path in (*folder.glob("*"), folder):
            with suppress(FileNotFoundError):
                number = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(number)
                finally:
                    os.close(number)

    def close(self, batch: str) -> None:
        """Write no more to this process's segment of a batch; what is there stays."""
        with self._lock:
            segment = self._own.pop(batch, None)
            if segment is not None:
                os.close(segment.number)

    def delete(self, batch: str) -> None:
        """Remove the rows of a batch that is over."""
        self.close(batch)
        shutil.rmtree(self._of(batch), ignore_errors=True)

    def left(self) -> list[str]:
        """The batches of which there are rows."""
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self._folder) if is_id(name, BATCH)]
        return []

    def _begin(self, batch: str) -> _Own:
        folder = self._of(batch)
        for path in (self._folder, folder):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = secrets.token_hex(8)
        number = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        segment = self._own[batch] = _Own(name, number)
        return segment

    def _of(self, batch: str) -> Path:
        if not is_id(batch, BATCH):
            raise ValueError("not the id of a batch")
        return self._folder / batch


class Reading:
    """Segments of one batch that are open to be read."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._files: dict[str, BinaryIO] = {}

    def copy(self, spot: Spot, to: BinaryIO) -> None:
        """Write a row to a file. Raises `LostRowError`; part of it may then have been written."""
        try:
            file = self._files.get(spot.segment)
            if file is None:
                file = self._files[spot.segment] = self._stack.enter_context((self._folder / spot.segment).open("rb"))
        except FileNotFoundError as error:
            raise LostRowError from error
        file.seek(spot.offset)
        remaining, check = spot.size, 0
        while remaining and (part := file.read(min(remaining, ROW_CHUNK))):
            to.write(part)
            remaining, check = remaining - len(part), zlib.crc32(part, check)
        if remaining or check != spot.check:
            raise LostRowError


def _parts(row: Sequence[str]) -> Iterator[bytes]:
    """A row and the end of its line, in parts of bounded size."""
    for text in row:
        for start in range(0, len(text), ROW_CHUNK):
            yield text[start : start + ROW_CHUNK].encode()
    yield b"\n"


def _write_all(number: int, part: bytes, at: int) -> None:
    remaining = memoryview(part)
    while remaining:
        written = os.pwrite(number, remaining, at)
        remaining, at = remaining[written:], at + written


_LOG = logging.getLogger(__name__)
_FULL_SECONDS = 2.0
_PUT = """
if redis.call('HEXISTS', KEYS[1], 'fixed') == 0 or redis.call('HEXISTS', KEYS[1], 'ending') == 1 then return end
for i = 1, #ARGV, 4 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('HINCRBY', KEYS[1], ARGV[i + 2], 1)
    redis.call('HINCRBY', KEYS[1], 'row_bytes', ARGV[i + 3])
  end
end
"""
"""Add where the rows of lines stand, and count them; the first one of a line wins, and none comes after the end."""


@dataclass(slots=True, eq=False)
class _Row:
    batch: str
    line: int
    row: Sequence[str]
    count: str
    spot: Spot | None = None
    written: bool = False


class Rows:
    """Rows that wait are written by whoever of those that wait for them comes first: there is no task of its own.

    They go to the disk, and to the store only where they stand there. Memory is given back as soon as that is known.
    """

    def __init__(self, storage: Storage, segments: Segments) -> None:
        self._storage, self._segments = storage, segments
        self._waiting: list[_Row] = []
        self._writing = asyncio.Lock()

    async def put(self, batch: str, line: int, row: Sequence[str], count: str) -> None:
        """Write a row, given in parts, which counts as `answered` or `failed`.

        Waits for as long as the store is away, or the disk full.
        """
        entry = _Row(batch, line, row, count)
        self._waiting.append(entry)
        try:
            async with self._writing:
                while not entry.written:
                    await self._write_some()
        finally:
            if entry in self._waiting:  # who wanted it is gone, and asks its line again
                self._waiting.remove(entry)

    async def _write_some(self) -> None:
        rows, self._waiting = self._waiting[:NAMES_AT_ONCE], self._waiting[NAMES_AT_ONCE:]
        try:
            await self._keep(rows)
            await patiently(self._storage, lambda client: _note(client, rows))
        except BaseException:  # who writes for all was cancelled: the next one does
            self._waiting = rows + self._waiting
            raise
        for row in rows:
            row.written = True

    async def _keep(self, rows: list[_Row]) -> None:
        """Have rows on the disk; one that is there already is not written again."""
        by_batch = defaultdict[str, list[_Row]](list)
        for entry in rows:
            if entry.spot is None:
                by_batch[entry.batch].append(entry)
        for batch, batch_rows in by_batch.items():
            written = [(entry.row, entry.count == "answered") for entry in batch_rows]
            spots = await _once_there_is_room(lambda batch=batch, written=written: self._segments.write(batch, written))  # type: ignore[misc]
            for entry, spot in zip(batch_rows, spots, strict=True):
                entry.spot, entry.row = spot, ()


async def _once_there_is_room(write: Callable[[], list[Spot]]) -> list[Spot]:
    warned = False
    while True:
        try:
            return await asyncio.to_thread(write)
        except OSError as error:
            if not warned:
                _LOG.warning("rows of batches cannot be written (%s): they wait until they can", error.strerror)
            warned = True
            await asyncio.sleep(_FULL_SECONDS)


async def _note(client: Redis, rows: list[_Row]) -> None:
    """Twice is as good as once."""
    by_batch = defaultdict[str, list[str | int]](list)
    for row in rows:
        if row.spot is not None:
            by_batch[row.batch] += [row.line, str(row.spot), row.count, row.spot.size]
    pipe = client.pipeline(transaction=False)
    for batch, words in by_batch.items():
        pipe.eval(_PUT, 2, batch_key(batch), lines_key(batch), *words)
    await pipe.execute()
