"""How much each key may ask for in a minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from symmoe.errors import StoreError

from ..storage import once
from . import window
from .breaker import Stored
from .callers import Caller


@dataclass(frozen=True, slots=True)
class Level:
    """How one limit stands: what it allows and what is used, seconds until there is room, and until nothing is used."""

    what: str
    limit: int
    used: int
    wait: float
    reset: float

    @property
    def headers(self) -> dict[str, str]:
        """As OpenAI names them."""
        told = {"limit": str(self.limit), "remaining": str(max(0, self.limit - self.used)), "reset": f"{self.reset:g}s"}
        return {f"x-ratelimit-{name}-{self.what}": value for name, value in told.items()}


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How a caller's limits stand; without levels, none was looked at."""

    levels: tuple[Level, ...] = ()

    @property
    def over(self) -> Level | None:
        """The limit that a request must wait for, the longest wait first; None where it may go on."""
        waiting = [level for level in self.levels if level.wait > 0]
        return max(waiting, key=lambda level: level.wait, default=None)

    @property
    def headers(self) -> dict[str, str]:
        """Of every limit."""
        return {name: value for level in self.levels for name, value in level.headers.items()}


class Limits:
    """Counts requests and tokens by key. Where the store does not answer, nobody is refused and `unchecked` called."""

    def __init__(self, stored: Stored, unchecked: Callable[[], None]) -> None:
        self._stored, self._unchecked = stored, unchecked

    async def admit(self, caller: Caller) -> LimitStatus:
        """Count a request of a caller, unless it is over a limit; how those stand."""
        requests, tokens = caller.requests_per_minute, caller.tokens_per_minute
        if requests is None and tokens is None:
            return LimitStatus()
        try:
            asked, used = await self._stored.do(
                once(lambda client: window.admit(client, caller.id, requests or 0, tokens or 0))
            )
        except StoreError:
            self._unchecked()
            return LimitStatus()
        levels = [("requests", requests, asked), ("tokens", tokens, used)]
        return LimitStatus(
            tuple(
                Level(what, limit, count, wait / 1000, reset / 1000)
                for what, limit, (count, wait, reset) in levels
                if limit is not None
            )
        )

    async def charge(self, caller: Caller, tokens: int) -> None:
        """Count what an answer took; where the store is lost over it, that may be left out, and never counted twice."""
        if caller.tokens_per_minute is None or tokens <= 0:
            return
        try:
            await self._stored.do(once(lambda client: window.charge(client, caller.id, tokens)))
        except StoreError:
            self._unchecked()
