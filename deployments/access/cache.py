"""Answers that are kept in the store: for equal requests, and as responses that a conversation may go on from.

No caller is ever given another's. Each is kept for a time, and not without bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from symmoe import __version__
from symmoe.errors import StoreError
from symmoe.limits import RESPONSE_BYTES, RESPONSE_SECONDS, RESPONSES_BYTES_OF_KEY, RESPONSES_OF_KEY
from symmoe.wire.responses import Kept

from ..order import Order
from ..storage import command
from .breaker import Stored

if TYPE_CHECKING:
    from redis.asyncio import Redis


Outcome = Literal["hit", "miss", "unavailable"]
MOST_BYTES = 1 << 18
"""An answer larger than this is not kept."""

_KEEP = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local life, most = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', life)
redis.call('ZADD', KEYS[1], now, KEYS[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - life)
local over = redis.call('ZCARD', KEYS[1]) - most
if over > 0 then
  local oldest = redis.call('ZPOPMIN', KEYS[1], over)
  for i = 1, #oldest, 2 do redis.call('DEL', oldest[i]) end
end
redis.call('PEXPIRE', KEYS[1], life)
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What the cache knows of an order: the answer kept, if any, and whether there is one."""

    how: Outcome
    answer: dict[str, Any] | None = None


class AnswerCache:
    """Answers in the store, by caller, pool and order, each for so many seconds, so many entries for each caller.

    `pool` gives the pool's identity, asked once and in a thread. Where the store does not answer, nothing is found and
    nothing kept.
    """

    def __init__(self, stored: Stored, pool: Callable[[], str], seconds: float, entries: int) -> None:
        self._stored, self._pool, self._seconds, self._entries = stored, pool, seconds, entries
        self._identity: str | None = None

    async def find(self, order: Order) -> Found:
        """Look for the answer to an equal order of the same caller. Never raises: see `Found.how`."""
        try:
            row: bytes | None = await self._stored.do(command("GET", await self._name(order)))
        except StoreError:
            return Found("unavailable")
        answer = _read(row)
        return Found("miss") if answer is None else Found("hit", answer)

    async def keep(self, order: Order, answer: dict[str, Any]) -> None:
        """Keep an answer for equal orders, unless it is larger than `MOST_BYTES`. The caller's oldest give way."""
        row = json.dumps(answer, ensure_ascii=False).encode()
        if len(row) > MOST_BYTES:
            return
        with suppress(StoreError):
            names = [f"symmoe:answers:{{{order.key}}}", await self._name(order)]
            arguments: list[bytes | int] = [row, int(self._seconds * 1000), self._entries]

            async def work(client: Redis) -> None:
                await client.register_script(_KEEP)(keys=names, args=arguments)

            await self._stored.do(work)

    async def _name(self, order: Order) -> str:
        """Where the order's answer stands: a digest, so that no question can be read from the store's names."""
        key_text = "\0".join((__version__, await self._pool_identity(), identity(order)))
        return f"symmoe:answers:{{{order.key}}}:answer:{hashlib.sha256(key_text.encode()).hexdigest()}"

    async def _pool_identity(self) -> str:
        if self._identity is None:
            self._identity = await asyncio.to_thread(self._pool)
        return self._identity


def _read(row: bytes | None) -> dict[str, Any] | None:
    """An answer as it was kept; a spoilt row is as good as none."""
    try:
        answer = None if row is None else json.loads(row)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def identity(order: Order) -> str:
    """Everything of an order that shapes its answer, as text."""
    shape = {
        "messages": [asdict(message) for message in order.query.messages],
        "sampling": asdict(order.query.sampling),
        "kind": order.query.kind,
        "newcomers": order.newcomers,
        "policy": asdict(order.policy),
        "n": order.n,
        "explain": order.explain,
    }
    return json.dumps(shape, sort_keys=True)


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
_KEEP_RESPONSE = f"""{_FORGET}
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
        """Keep a response unless it is larger than `RESPONSE_BYTES`; whether it is. The owner's oldest give way."""
        row = json.dumps(kept.model_dump(), ensure_ascii=False).encode()
        if len(row) > RESPONSE_BYTES:
            return False
        bounds = [int(RESPONSE_SECONDS * 1000), RESPONSES_OF_KEY, RESPONSES_BYTES_OF_KEY]

        async def work(client: Redis) -> None:
            await client.register_script(_KEEP_RESPONSE)(keys=_names(owner, ident), args=[row, *bounds])

        await self._stored.do(work)
        return True

    async def find(self, owner: str, ident: str) -> Kept | None:
        """A response; None for one that is not there, or whose row is damaged."""
        row: bytes | None = await self._stored.do(command("GET", _names(owner, ident)[2]))
        try:
            return None if row is None else Kept.model_validate_json(row)
        except ValidationError:
            return None

    async def drop(self, owner: str, ident: str) -> bool:
        """Forget a response; False if it was not there."""

        async def work(client: Redis) -> bool:
            return bool(await client.register_script(_DROP)(keys=_names(owner, ident)))

        return await self._stored.do(work)


def _names(owner: str, ident: str) -> list[str]:
    """An owner's list, the sizes of what is in it, and one row."""
    base = f"symmoe:responses:{{{owner}}}"
    return [base, f"{base}:sizes", f"{base}:response:{ident}"]
