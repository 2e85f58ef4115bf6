"""A response as server-sent events, with the clean-up after it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Stream(StreamingResponse):
    """Sends `parts` as server-sent events inside the context `open_in`, and in any case awaits `over` afterwards.

    That holds at the end, when the client leaves, and if it left before the first part was requested.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        open_in: AbstractContextManager[None],
        over: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(parts, media_type="text/event-stream", headers={**headers, **HEADERS})
        self._parts, self._open_in, self._over = parts, open_in, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, then clean up."""
        try:
            with self._open_in:
                await super().__call__(scope, receive, send)
        finally:
            await self._parts.aclose()
            await self._over()
