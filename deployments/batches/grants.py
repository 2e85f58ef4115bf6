"""Room for the rows of batches: how much more each key may have, looked up now and then and not for every row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from symmoe.errors import StoreError
from symmoe.limits import ROWS_GRANT

_STORE_PAUSE = 1.0
_PART = 16


class FullError(Exception):
    """The files of a key leave no room for more rows of its batches."""


async def _endless(owner: str) -> int:
    return 1 << 62


class Grant:
    """What rows of one key may still take before it is looked again how much room there is: a small part of the room.

    What was granted and is not in the store yet is counted here, for all batches of the key in this process.
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
        """Room for so many bytes, in the store once the block is over; however long that is away.

        Raises `FullError`.
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

    def __init__(self, left: Callable[[str], Awaitable[int]] = _endless) -> None:
        self._left = left
        self._of: WeakValueDictionary[str, Grant] = WeakValueDictionary()

    def of(self, owner: str) -> Grant:
        """The grant of a key; its batches share it."""
        return self._of.setdefault(owner, Grant(owner, self._left))
