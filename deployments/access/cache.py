"""Answers that were given before, by everything that shaped them. No caller is ever given another's."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from symmoe import __version__
from symmoe.errors import StoreError
from symmoe.types import Message, Query

from ..order import Order
from .breaker import Stored
from .similar import Likeness, likeness, nearest, pack

if TYPE_CHECKING:
    from redis.asyncio import Redis

Outcome = Literal["hit", "similar", "miss", "unavailable"]
Embed = Callable[[str], Awaitable[NDArray[np.float32]]]
MOST_BYTES = 1 << 18
"""An answer larger than this is not kept."""
ALIKE = 64
"""How many questions of one form are compared at most."""

_KEEP = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local life, most = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', life)
redis.call('ZADD', KEYS[1], now, KEYS[2])
if KEYS[3] then
  redis.call('LPUSH', KEYS[3], ARGV[4])
  redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[5]) - 1)
  redis.call('PEXPIRE', KEYS[3], life)
  redis.call('ZADD', KEYS[1], now, KEYS[3])
end
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
    """What the cache knows of an order: the answer kept, if any, and how it was found."""

    how: Outcome
    answer: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long answers are kept, in seconds; how many entries each caller has; from which cosine questions are one."""

    seconds: float
    entries: int
    similarity: float = 0.0


class AnswerCache:
    """Answers in the store, by caller, pool and order.

    `pool` gives the pool's identity, asked once and in a thread; `embed` a text's unit row `[d]`. Where the store does
    not answer, nothing is found and nothing kept.
    """

    def __init__(self, stored: Stored, pool: Callable[[], str], bounds: Bounds, embed: Embed) -> None:
        self._stored, self._pool, self._bounds, self._embed = stored, pool, bounds, embed
        self._identity: str | None = None

    async def find(self, order: Order) -> Found:
        """The answer of an equal order of the same caller, or, where that is switched on, of one that asks the same."""
        try:
            kept = await self._get(await self._name(order))
            if kept is not None:
                return Found("hit", kept)
            similar = await self._similar(order)
        except StoreError:
            return Found("unavailable")
        return Found("miss") if similar is None else Found("similar", similar)

    async def keep(self, order: Order, answer: dict[str, Any]) -> None:
        """Keep an answer for the next equal order. The caller's oldest entries give way."""
        row = json.dumps(answer, ensure_ascii=False).encode()
        if len(row) > MOST_BYTES:
            return
        with suppress(StoreError):
            names, arguments = await self._entry(order, row)

            async def work(client: Redis) -> None:
                await client.register_script(_KEEP)(keys=names, args=arguments)

            await self._stored.do(work)

    async def _entry(self, order: Order, row: bytes) -> tuple[list[str], list[Any]]:
        """The script's names (the caller's index, the answer, its form) and its arguments."""
        name, mark = await self._name(order), self._mark(order)
        names = [f"symmoe:answers:{{{order.key}}}", name]
        arguments: list[Any] = [row, int(self._bounds.seconds * 1000), self._bounds.entries]
        if mark is not None:
            names.append(await self._form(order, mark))
            arguments += [pack(name, mark, await self._embed(order.query.text)), ALIKE]
        return names, arguments

    async def _similar(self, order: Order) -> dict[str, Any] | None:
        mark = self._mark(order)
        if mark is None:
            return None
        form = await self._form(order, mark)

        async def work(client: Redis) -> list[bytes]:
            rows: list[bytes] = await client.lrange(form, 0, -1)  # type: ignore[assignment]
            return rows

        rows = await self._stored.do(work)
        if not rows:
            return None
        name = nearest(rows, mark, await self._embed(order.query.text), self._bounds.similarity)
        return None if name is None else await self._get(name)

    async def _get(self, name: str) -> dict[str, Any] | None:
        async def work(client: Redis) -> bytes | None:
            row: bytes | None = await client.get(name)  # type: ignore[assignment]
            return row

        row = await self._stored.do(work)
        try:
            found = None if row is None else json.loads(row)
        except ValueError:  # spoilt: as good as none
            return None
        return found if isinstance(found, dict) else None

    def _mark(self, order: Order) -> Likeness | None:
        return likeness(order.query.text) if self._bounds.similarity > 0 else None

    async def _name(self, order: Order) -> str:
        return self._under(order, "answer", await self._pool_identity(), identity(order))

    async def _form(self, order: Order, mark: Likeness) -> str:
        """Where questions stand that differ from this one only in words that ask or join."""
        return self._under(order, "form", await self._pool_identity(), identity(order, mark.form))

    def _under(self, order: Order, what: str, *parts: str) -> str:
        told = hashlib.sha256("\0".join((__version__, *parts)).encode()).hexdigest()
        return f"symmoe:answers:{{{order.key}}}:{what}:{told}"

    async def _pool_identity(self) -> str:
        if self._identity is None:
            self._identity = await asyncio.to_thread(self._pool)
        return self._identity


def identity(order: Order, form: tuple[str, ...] | None = None) -> str:
    """Everything of an order that shapes its answer, as text; with `form`, that in place of the question's words."""
    query = order.query if form is None else _without_words(order.query)
    shape = {
        "messages": [asdict(message) for message in query.messages],
        "sampling": asdict(query.sampling),
        "kind": query.kind,
        "expert": order.expert,
        "came": order.came,
        "choice": asdict(order.choice),
        "n": order.n,
        "explain": order.explain,
        "form": form,
    }
    return json.dumps(shape, sort_keys=True)


def _without_words(query: Query) -> Query:
    """The query with nothing in the message that is its question; those before and after it stay."""
    places = [place for place, message in enumerate(query.messages) if message.role == "user"]
    last = places[-1] if places else len(query.messages) - 1
    messages = tuple(
        Message(message.role, "") if place == last else message for place, message in enumerate(query.messages)
    )
    return Query(query.id, messages, query.sampling, query.kind)
