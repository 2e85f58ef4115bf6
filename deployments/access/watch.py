"""A stream that is open when its key is revoked ends then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from symmoe.errors import StoreError

from .callers import Keys

_EVERY = 1.0


@dataclass(slots=True, eq=False)
class _Stream:
    key: str
    end: Callable[[], None]


class KeyWatch:
    """Looks every second whether the keys of open streams are still good, each key once, and ends those of one that is
    not. While the store cannot tell, streams go on: they began with a good key.
    """

    def __init__(self, keys: Keys, every: float = _EVERY) -> None:
        self._keys, self._every = keys, every
        self._open: set[_Stream] = set()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watched(self, key: str | None, end: Callable[[], None]) -> Iterator[None]:
        """Call `end` if the key is revoked or expires before the block ends."""
        if key is None or not self._keys.required:
            yield
            return
        stream = _Stream(key, end)
        self._open.add(stream)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            self._open.discard(stream)
            if not self._open and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _look_on(self) -> None:
        while self._open:
            await asyncio.sleep(self._every)
            for key in {stream.key for stream in self._open}:
                if not await self._good(key):
                    self._end([stream for stream in self._open if stream.key == key])

    def _end(self, streams: list[_Stream]) -> None:
        for stream in streams:
            self._open.discard(stream)
            stream.end()

    async def _good(self, key: str) -> bool:
        try:
            return await self._keys.caller(key) is not None
        except StoreError:
            return True
