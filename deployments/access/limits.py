"""How much each key may ask for in a minute.

What was used within the last minute is counted in the store and so by all replicas together. A window is a hash of
one-second buckets. Its buckets are read, added to and dropped by scripts, which the server runs one at a time and by
its own clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symmoe.errors import StoreError

from ..storage import once
from .breaker import Stored
from .keys import Caller

if TYPE_CHECKING:
    from redis.asyncio import Redis


SECONDS = 60

_COMMON = f"""
local SECONDS = {SECONDS}
local function milliseconds(given)
  if given then return tonumber(given) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local function add(key, amount, now)
  redis.call('HINCRBY', key, string.format('%d', math.floor(now / 1000)), amount)
  redis.call('PEXPIRE', key, (SECONDS + 1) * 1000)
end
"""

_ADMIT = (
    _COMMON
    + """
-- what is used, milliseconds until less than `limit` is, milliseconds until nothing is
local function look(key, limit, now)
  local second, rows = math.floor(now / 1000), redis.call('HGETALL', key)
  local counts, order, used = {}, {}, 0
  for i = 1, #rows, 2 do
    local at, count = tonumber(rows[i]), tonumber(rows[i + 1])
    if at <= second - SECONDS or at > second then
      redis.call('HDEL', key, rows[i])
    else
      counts[at] = count
      order[#order + 1] = at
      used = used + count
    end
  end
  table.sort(order)
  local left, wait = used, 0
  for _, at in ipairs(order) do
    if left < limit then break end
    left = left - counts[at]
    wait = (at + SECONDS) * 1000 - now
  end
  local reset = 0
  if #order > 0 then reset = (order[#order] + SECONDS) * 1000 - now end
  return used, wait, reset
end
local now, most, tokens = milliseconds(ARGV[3]), tonumber(ARGV[1]), tonumber(ARGV[2])
local asked, ask_wait, ask_reset, used, use_wait, use_reset = 0, 0, 0, 0, 0, 0
if most > 0 then asked, ask_wait, ask_reset = look(KEYS[1], most, now) end
if tokens > 0 then used, use_wait, use_reset = look(KEYS[2], tokens, now) end
if ask_wait == 0 and use_wait == 0 and most > 0 then
  add(KEYS[1], 1, now)
  asked, ask_reset = asked + 1, (math.floor(now / 1000) + SECONDS) * 1000 - now
end
return {asked, ask_wait, ask_reset, used, use_wait, use_reset}
"""
)

_CHARGE = _COMMON + "add(KEYS[1], ARGV[1], milliseconds(ARGV[2]))"

Counts = tuple[int, int, int]
"""What is used, milliseconds until there is room for more, milliseconds until nothing is used."""


async def count_request(
    client: Redis, ident: str, requests: int, tokens: int, now: int | None = None
) -> tuple[Counts, Counts]:
    """Count one request, if fewer than `requests` came and fewer than `tokens` were used within the window.

    How both windows stand, the request counted. It was let in where there is nothing to wait for in either. A limit of
    0 is none. `now`, in milliseconds, replaces the server's clock.
    """
    script = client.register_script(_ADMIT)
    arguments = [requests, tokens, *([] if now is None else [now])]
    counts = [int(count) for count in await script(keys=_names(ident), args=arguments)]
    return (counts[0], counts[1], counts[2]), (counts[3], counts[4], counts[5])


async def count_tokens(client: Redis, ident: str, tokens: int, now: int | None = None) -> None:
    """Count tokens as used now, or at `now`, in milliseconds since 1970."""
    script = client.register_script(_CHARGE)
    await script(keys=_names(ident)[1:], args=[tokens, *([] if now is None else [now])])


def _names(ident: str) -> list[str]:
    """The windows of a caller; the braces put them on one node of a Redis cluster."""
    return [f"symmoe:window:{{{ident}}}:{what}" for what in ("requests", "tokens")]


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
        """The level as OpenAI's `x-ratelimit` headers."""
        values = {
            "limit": str(self.limit),
            "remaining": str(max(0, self.limit - self.used)),
            "reset": f"{self.reset:g}s",
        }
        return {f"x-ratelimit-{name}-{self.what}": value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How a caller's limits stand; without levels, none was looked at."""

    levels: tuple[Level, ...] = ()

    @property
    def exceeded(self) -> Level | None:
        """The limit that a request must wait for, the longest wait first; None where it may go on."""
        waiting = [level for level in self.levels if level.wait > 0]
        return max(waiting, key=lambda level: level.wait, default=None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of all levels."""
        return {name: value for level in self.levels for name, value in level.headers.items()}


class Limits:
    """Counts requests and tokens by key. Where the store does not answer, nobody is refused and `unchecked` called."""

    def __init__(self, stored: Stored, unchecked: Callable[[], None]) -> None:
        self._stored, self._unchecked = stored, unchecked

    async def admit(self, caller: Caller) -> LimitStatus:
        """Count a request, unless its caller is over a limit, and tell how the limits stand.

        There are no levels for a caller without limits, nor where the store does not answer.
        """
        requests, tokens = caller.requests_per_minute, caller.tokens_per_minute
        if requests is None and tokens is None:
            return LimitStatus()
        try:
            request_use, token_use = await self._stored.do(
                once(lambda client: count_request(client, caller.id, requests or 0, tokens or 0))
            )
        except StoreError:
            self._unchecked()
            return LimitStatus()
        levels = [("requests", requests, request_use), ("tokens", tokens, token_use)]
        return LimitStatus(
            tuple(
                Level(what, limit, count, wait / 1000, reset / 1000)
                for what, limit, (count, wait, reset) in levels
                if limit is not None
            )
        )

    async def charge(self, caller: Caller, tokens: int) -> None:
        """Count the tokens of an answer: not at all where the store is lost over it, and never twice."""
        if caller.tokens_per_minute is None or tokens <= 0:
            return
        try:
            await self._stored.do(once(lambda client: count_tokens(client, caller.id, tokens)))
        except StoreError:
            self._unchecked()
