"""How much was used within the last minute, counted in the store and so by all replicas together.

A window is a hash of one-second buckets. Its buckets are read, added to and dropped by scripts, which the server runs
one at a time and by its own clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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


async def admit(client: Redis, ident: str, requests: int, tokens: int, now: int | None = None) -> tuple[Counts, Counts]:
    """Count one request, if fewer than `requests` came and fewer than `tokens` were used within the window.

    How both windows stand, the request counted. It was let in where there is nothing to wait for in either. A limit of
    0 is none. `now`, in milliseconds, replaces the server's clock.
    """
    script = client.register_script(_ADMIT)
    arguments = [requests, tokens, *([] if now is None else [now])]
    counts = [int(count) for count in await script(keys=_names(ident), args=arguments)]
    return (counts[0], counts[1], counts[2]), (counts[3], counts[4], counts[5])


async def charge(client: Redis, ident: str, tokens: int, now: int | None = None) -> None:
    """Count tokens as used now."""
    script = client.register_script(_CHARGE)
    await script(keys=_names(ident)[1:], args=[tokens, *([] if now is None else [now])])


def _names(ident: str) -> list[str]:
    """The windows of a caller; the braces put them on one node of a Redis cluster."""
    return [f"symmoe:window:{{{ident}}}:{what}" for what in ("requests", "tokens")]
