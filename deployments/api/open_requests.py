"""Counts open requests, in all and of each key; for those that are online batches make room."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import ApiError


class Open:
    """Counts the open requests and limits them: `most` in all, `most_of_one` for one key."""

    def __init__(self, most: int, most_of_one: int, changed: Callable[[int], None] = lambda count: None) -> None:
        self._most, self._most_of_one, self._changed = most, most_of_one, changed
        self._count = 0
        self._of: Counter[str] = Counter()
        self._none = asyncio.Event()
        self._none.set()
        self.draining = False

    def enter(self, key: str) -> None:
        """Count a request of this key as open; the key is "" where none is required.

        Raises `ApiError`: 429 if this key or all have too many open, 503 while the service stops.
        """
        if self.draining:
            raise ApiError(503, "stopping", "the service is stopping", retry_after=5)
        if key and self._of[key] >= self._most_of_one:
            message = f"this key has {self._most_of_one} requests open, and may have no more at once"
            raise ApiError(429, "too_many_open", message, retry_after=1)
        if self._count >= self._most:
            raise ApiError(429, "overloaded", "too many requests are open", retry_after=1)
        self._add(key, 1)

    def leave(self, key: str) -> None:
        """Count a request of this key as over."""
        self._add(key, -1)

    async def drained(self, seconds: float) -> bool:
        """Let no more requests in. Returns whether all open ones ended within so many seconds."""
        self.draining = True
        try:
            await asyncio.wait_for(self._none.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _add(self, key: str, one: int) -> None:
        self._of[key] += one
        if not self._of[key]:
            del self._of[key]
        self._count += one
        self._changed(self._count)
        self._none.clear() if self._count else self._none.set()


_ANSWERING = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
_QUIET = 5.0


class Online:
    """Counts the online requests for answers that are open."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = 0
        self._last = -_QUIET

    @property
    def busy(self) -> bool:
        """Whether a request is open, or was within the last seconds, so that the next may come soon."""
        return self._open > 0 or self._clock() < self._last + _QUIET

    @contextmanager
    def counted(self, path: str) -> Iterator[None]:
        """Count a request for this path as open during the block."""
        if path not in _ANSWERING:
            yield
            return
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._last = self._clock()
