"""Whether online requests are open, for which batches then make room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
