"""Whether anybody waits for an answer just now: batches make room then."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

_ANSWERING = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
_QUIET = 5.0


class Online:
    """Counts the online requests for answers on their way through to `app`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = 0
        self._last = -_QUIET

    @property
    def busy(self) -> bool:
        """Whether one is open, or was within the last seconds: the next may be about to come."""
        return self._open > 0 or self._clock() < self._last + _QUIET

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] not in _ANSWERING:
                await app(scope, receive, send)
                return
            self._open += 1
            try:
                await app(scope, receive, send)
            finally:
                self._open -= 1
                self._last = self._clock()

        return counted
