"""Where batches stand in the store, and the steps that its scripts make one.

What is looked for often is found by owner or by file, and counted by the store: how many batches of an owner are open,
which those are, and whether one is made of a file. No step reads or writes more than a page of what there is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from symmoe.limits import RECORDS_AT_ONCE

from .batch_records import BatchRecord
from .store_access import pages, script

if TYPE_CHECKING:
    from redis.asyncio import Redis

OWNERS = "symmoe:batches:owners"
"""Those who have open batches."""
EXPIRING = "symmoe:batches:expiring"
"""Batches that are over, by when they are forgotten."""
OPEN_ONCE = "symmoe:batches:open"
"""Where open batches of all owners stood before they were kept by owner."""
_ADOPTED = "symmoe:batches:adopted"

_OPEN = """
redis.call('ZADD', KEYS[3], 0, ARGV[1])
redis.call('ZADD', KEYS[4], 0, ARGV[1])
redis.call('SADD', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[7], 0, ARGV[2])
redis.call('ZREM', KEYS[9], ARGV[1])
return 1
"""
CREATE = f"""
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
if redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], 'fixed', ARGV[3])
{_OPEN}
"""
"""Add a batch, unless its owner has as many open ones as ARGV[4]."""

CLOSE = """
local there = redis.call('EXISTS', KEYS[1]) == 1
if there then
  redis.call('HSETNX', KEYS[1], ARGV[3] .. '_at', ARGV[4])
  redis.call('HSETNX', KEYS[1], 'ended', ARGV[3])
end
redis.call('UNLINK', KEYS[2])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('SREM', KEYS[6], ARGV[1])
redis.call('ZREM', KEYS[9], ARGV[1])
if redis.call('ZCARD', KEYS[4]) == 0 then redis.call('ZREM', KEYS[7], ARGV[2]) end
if not there then
  for _, key in ipairs({KEYS[3], KEYS[5], KEYS[8]}) do redis.call('ZREM', key, ARGV[1]) end
  return
end
if redis.call('ZADD', KEYS[5], 'NX', ARGV[4], ARGV[1]) == 1 and ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[8], ARGV[5], ARGV[1])
  redis.call('HSETNX', KEYS[1], 'listed_until', ARGV[5])
end
for _ = 1, math.min(redis.call('ZCARD', KEYS[5]) - tonumber(ARGV[6]), 100) do
  local old = redis.call('ZPOPMIN', KEYS[5])[1]
  redis.call('UNLINK', 'symmoe:batch:{' .. old .. '}')
  redis.call('ZREM', KEYS[3], old)
  redis.call('ZREM', KEYS[8], old)
end
"""
"""End a batch: its rows are dropped, it is open no more, and of its owner's that are over only the last are kept."""

_FORGET = """
redis.call('UNLINK', KEYS[1])
for _, key in ipairs({KEYS[3], KEYS[5], KEYS[8]}) do redis.call('ZREM', key, ARGV[1]) end
"""
ADD_FACT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 3, #ARGV do if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then return 0 end end
return redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
"""
"""Add a fact unless one of others is there."""


def keys_of(ident: str, owner: str, file: str) -> list[str]:
    """Everywhere a batch stands, in the order in which the scripts know it."""
    own = [batch_key(ident), lines_key(ident)]
    return [*own, batches_of(owner), open_of(owner), _ended_of(owner), made_of(file), OWNERS, EXPIRING, OPEN_ONCE]


async def close(client: Redis, record: BatchRecord, outcome: str, at: int, seconds: float, most: int) -> None:
    """End a batch, whose record is kept for so many `seconds` (0: always), among the last `most` of its owner."""
    waiting: Any = client.eval(*_closing(record, outcome, at, seconds, most))
    await waiting


def _closing(record: BatchRecord, outcome: str, at: int, seconds: float, most: int) -> tuple[Any, ...]:
    until = str(at + max(1, round(seconds))) if seconds > 0 else ""
    words = (record.id, record.owner, outcome, at, until, most)
    keys = keys_of(record.id, record.owner, record.input)
    return CLOSE, len(keys), *keys, *words


async def forget_unknown(client: Redis, ident: str, owner: str) -> None:
    """List a batch no more whose record was lost."""
    await script(client, CLOSE, keys_of(ident, owner, ""), ident, owner, "", 0, "", 1 << 30)


async def expire(client: Redis, now: int) -> int:
    """Forget batches whose time is over, a page of them at most; how many."""
    waiting: Any = client.zrangebyscore(EXPIRING, "-inf", now, 0, RECORDS_AT_ONCE)
    due = [name.decode() for name in await waiting]
    found = await read_batches(client, due)
    pipe = client.pipeline(transaction=False)
    for record in found:
        keys = keys_of(record.id, record.owner, record.input)
        pipe.eval(_FORGET, len(keys), *keys, record.id)
    if due:
        pipe.zrem(EXPIRING, *due)
    await pipe.execute()
    return len(due)


async def add_fact(client: Redis, ident: str, name: str, value: str, *others: str) -> None:
    """Add a fact to a batch, unless it or one of the others is there."""
    await script(client, ADD_FACT, [batch_key(ident)], name, value, *others)


async def read_batch(client: Redis, ident: str) -> BatchRecord | None:
    """A batch."""
    waiting: Any = client.hgetall(batch_key(ident))
    return BatchRecord.read(await waiting)


async def read_batches(client: Redis, idents: Sequence[str]) -> list[BatchRecord]:
    """Those batches that there are."""
    found: list[BatchRecord | None] = []
    for start in range(0, len(idents), RECORDS_AT_ONCE):
        pipe = client.pipeline(transaction=False)
        for ident in idents[start : start + RECORDS_AT_ONCE]:
            pipe.hgetall(batch_key(ident))
        found += [BatchRecord.read(fields) for fields in await pipe.execute()]
    return [record for record in found if record is not None]


async def open_names(client: Redis, most: int) -> dict[str, list[str]]:
    """The open batches of each owner who has some: the oldest first, `most` of each."""
    found: dict[str, list[str]] = {}
    async for owners in pages(client, OWNERS):
        pipe = client.pipeline(transaction=False)
        for owner in owners:
            pipe.zrangebylex(open_of(owner), "-", "+", 0, most)
        for owner, listed in zip(owners, await pipe.execute(), strict=True):
            found[owner] = [name.decode() for name in listed]
    return found


async def adopt_open(client: Redis) -> None:
    """Keep by owner what stands where open batches of all owners stood."""
    async for idents in pages(client, OPEN_ONCE):
        found, pipe = await read_batches(client, idents), client.pipeline(transaction=False)
        for record in found:
            keys = keys_of(record.id, record.owner, record.input)
            pipe.eval(_OPEN, len(keys), *keys, record.id, record.owner)
        pipe.zrem(OPEN_ONCE, *idents)
        await pipe.execute()


async def adopt_ended(client: Redis, seconds: float, most: int) -> None:
    """Have batches expire that were over before any did. Nothing is done where that was done before."""
    if await client.exists(_ADOPTED):
        return
    async for key in client.scan_iter(match=f"{batches_of('*')}", count=1000):
        async for idents in pages(client, key.decode()):
            pipe = client.pipeline(transaction=False)
            for record in await read_batches(client, idents):
                if record.ended:
                    at = record.facts.get(f"{record.state}_at", record.created)
                    pipe.eval(*_closing(record, record.state, int(at), seconds, most))
            await pipe.execute()
    await client.set(_ADOPTED, 1)


def now() -> str:
    """The time as it is kept, in seconds since the epoch."""
    return str(int(time.time()))


def batch_key(ident: str) -> str:
    """Where a batch stands."""
    return f"symmoe:batch:{{{ident}}}"


def lines_key(ident: str) -> str:
    """Where it stands which rows its lines have, by line number."""
    return f"{batch_key(ident)}:lines"


def batches_of(owner: str) -> str:
    """Where the names of all batches of an owner stand."""
    return f"symmoe:batches:of:{owner}"


def open_of(owner: str) -> str:
    """Where the names of those stand that are not over."""
    return f"symmoe:batches:open:of:{owner}"


def made_of(file: str) -> str:
    """Where the names of open batches stand that are made of a file."""
    return f"symmoe:batches:on:{file}"


def _ended_of(owner: str) -> str:
    return f"symmoe:batches:ended:of:{owner}"
