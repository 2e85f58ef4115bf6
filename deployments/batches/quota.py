"""How much each key's files may take together, and how much more the rows of its batches may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from symmoe.errors import StoreError
from symmoe.limits import ROWS_GRANT

from .batches import Batches
from .files import Files

_STORE_PAUSE = 1.0
_PART = 16


class FullError(Exception):
    """The files of a key leave no room for more rows of its batches."""


class Grant:
    """How many bytes of rows a key may write before its room is looked up again: a sixteenth of the room at most.

    Bytes that were granted and are not in the store yet are counted here, for all batches of the key in this process.
    """

    def __init__(self, owner: str, left: Callable[[str], Awaitable[int]]) -> None:
        self._owner, self._left = owner, left
        self._bytes = self._coming = 0
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Raise `FullError` where there is no room for anything."""
        async with self.room(1):
            return

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Wait for room for so many bytes, which are in the store when the block ends. Waits while the store is away.

        Raises `FullError` where there is no room.
        """
        async with self._looking:
            while self._bytes < size:
                coming = self._coming  # as of before the look: what is stored meanwhile is counted twice, not left out
                left = await self._room_left() - coming
                if left >= size:
                    self._bytes = max(size, min(left // _PART, ROWS_GRANT))
                elif coming == self._coming:
                    raise FullError
            self._bytes -= size
        self._coming += size
        try:
            yield
        finally:
            self._coming -= size

    async def _room_left(self) -> int:
        while True:
            try:
                return await self._left(self._owner)
            except StoreError:
                await asyncio.sleep(_STORE_PAUSE)


class Grants:
    """The grants of one process, by key. `left` says how many bytes more a key may have; it may raise `StoreError`."""

    def __init__(self, left: Callable[[str], Awaitable[int]]) -> None:
        self._left = left
        self._of: WeakValueDictionary[str, Grant] = WeakValueDictionary()

    def of(self, owner: str) -> Grant:
        """The grant of a key; its batches share it."""
        return self._of.setdefault(owner, Grant(owner, self._left))


_NAMED = 3
_FILES_OF_A_BATCH = 2


class OverQuotaError(Exception):
    """An owner has as much as is allowed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Used:
    """What an owner has: `files` with those to come, `size` in bytes with what is coming in, and the oldest files."""

    files: int
    size: int
    oldest: tuple[str, ...]


@dataclass(eq=False, slots=True)
class _Coming:
    owner: str
    size: int


class Quota:
    """Files of one owner are at most `most_files`, and `most_bytes` together.

    A batch that is not over counts as two files, its output and its errors, and with the bytes of the rows that it has.
    What is coming in is known of this process only.
    """

    def __init__(self, files: Files, batches: Batches, most_files: int, most_bytes: int) -> None:
        self._files, self._batches = files, batches
        self._most_files, self._most_bytes = most_files, most_bytes
        self._coming: set[_Coming] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def room(self, owner: str, least: int, most: int) -> AsyncIterator[int]:
        """Room for one more file while the block lasts: how many bytes it may have, up to `most`.

        Raises `OverQuotaError` where there is not even room for `least`, and `StoreError`.
        """
        lock = self._locks.setdefault(owner, asyncio.Lock())
        async with lock:
            used = await self._used(owner)
            left = self._most_bytes - used.size
            if used.files >= self._most_files or left <= 0 or left < least:
                raise self._over(used)
            coming = _Coming(owner, min(left, most))
            self._coming.add(coming)
        try:
            yield coming.size
        finally:
            self._coming.discard(coming)

    async def error(self, owner: str) -> OverQuotaError:
        """The error for a file that turned out to be larger than its room."""
        return self._over(await self._used(owner))

    async def left(self, owner: str) -> int:
        """How many bytes more an owner may have."""
        return self._most_bytes - (await self._used(owner)).size

    async def check_batch(self, owner: str) -> None:
        """Raise `OverQuotaError` where there is no room for what one more batch gives."""
        used = await self._used(owner)
        if used.files + _FILES_OF_A_BATCH > self._most_files or used.size >= self._most_bytes:
            raise self._over(used)

    async def _used(self, owner: str) -> Used:
        # first: what is written while the store is asked is counted twice rather than not at all
        uploads = [upload for upload in self._coming if upload.owner == owner]
        files = [file for file in await self._files.all_of(owner) if not file.expired]
        opened, rows = await self._batches.open_of(owner)
        count = len(files) + len(uploads) + _FILES_OF_A_BATCH * opened
        size = sum(file.size for file in files) + sum(upload.size for upload in uploads) + rows
        return Used(count, size, tuple(file.id for file in files[:_NAMED]))

    def _over(self, used: Used) -> OverQuotaError:
        allowed = f"files may be {self._most_files}, with {self._most_bytes} bytes together"
        usage = (
            f"there are {used.files}, with {used.size} bytes, counting what is coming in and two for each open batch"
        )
        first = f", the oldest first: {', '.join(used.oldest)}" if used.oldest else ""
        return OverQuotaError(f"{allowed}; {usage}. Delete some (DELETE /v1/files/ID){first}")
