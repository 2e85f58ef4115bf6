"""Responses that a conversation may go on from, in the store: each key's own, for a time, and not without bound."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from symmoe.limits import RESPONSE_BYTES, RESPONSE_SECONDS, RESPONSES_BYTES_OF_KEY, RESPONSES_OF_KEY
from symmoe.wire.responses import Kept

from .breaker import Stored

if TYPE_CHECKING:
    from redis.asyncio import Redis

_FORGET = """
local function forget(names)
  for _, name in ipairs(names) do
    local size = tonumber(redis.call('HGET', KEYS[2], name) or '0')
    redis.call('DEL', name)
    redis.call('ZREM', KEYS[1], name)
    redis.call('HDEL', KEYS[2], name)
    redis.call('HINCRBY', KEYS[2], '', -size)
  end
end
"""
_KEEP = f"""{_FORGET}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local life, most, bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
forget({{KEYS[3]}})
redis.call('SET', KEYS[3], ARGV[1], 'PX', life)
redis.call('ZADD', KEYS[1], now, KEYS[3])
redis.call('HSET', KEYS[2], KEYS[3], #ARGV[1])
redis.call('HINCRBY', KEYS[2], '', #ARGV[1])
forget(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - life))
while redis.call('ZCARD', KEYS[1]) > most or tonumber(redis.call('HGET', KEYS[2], '')) > bytes do
  forget(redis.call('ZRANGE', KEYS[1], 0, 0))
end
redis.call('PEXPIRE', KEYS[1], life)
redis.call('PEXPIRE', KEYS[2], life)
"""
_DROP = f"""{_FORGET}
local there = redis.call('EXISTS', KEYS[3])
forget({{KEYS[3]}})
return there
"""


class KeptResponses:
    """Responses by owner and id. The oldest of an owner give way to newer ones. Raises `StoreError`."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    async def keep(self, owner: str, ident: str, kept: Kept) -> bool:
        """Keep one, if it is not larger than any may be; whether it is."""
        row = json.dumps(kept.model_dump(), ensure_ascii=False).encode()
        if len(row) > RESPONSE_BYTES:
            return False
        bounds = [int(RESPONSE_SECONDS * 1000), RESPONSES_OF_KEY, RESPONSES_BYTES_OF_KEY]

        async def work(client: Redis) -> None:
            await client.register_script(_KEEP)(keys=_names(owner, ident), args=[row, *bounds])

        await self._stored.do(work)
        return True

    async def find(self, owner: str, ident: str) -> Kept | None:
        """One that is there; a spoilt row is as good as none."""

        async def work(client: Redis) -> bytes | None:
            row: bytes | None = await client.get(_names(owner, ident)[2])  # type: ignore[assignment]
            return row

        row = await self._stored.do(work)
        try:
            return None if row is None else Kept.model_validate_json(row)
        except ValidationError:
            return None

    async def drop(self, owner: str, ident: str) -> bool:
        """Forget one; whether it was there."""

        async def work(client: Redis) -> bool:
            return bool(await client.register_script(_DROP)(keys=_names(owner, ident)))

        return await self._stored.do(work)


def _names(owner: str, ident: str) -> list[str]:
    """An owner's list, the sizes of what is in it, and one row."""
    own = f"symmoe:responses:{{{owner}}}"
    return [own, f"{own}:sizes", f"{own}:response:{ident}"]
