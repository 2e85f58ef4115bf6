"""Where batches stand in the store, and the steps that its scripts make one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .keeping import script
from .records import BatchRecord

if TYPE_CHECKING:
    from redis.asyncio import Redis

OPEN = "symmoe:batches:open"
ADD_FACT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 3, #ARGV do if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then return 0 end end
return redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
"""
"""Add a fact unless one of others is there."""


async def forget(client: Redis, ident: str) -> None:
    """Drop the rows of a batch that is over, and list it no more."""
    await client.unlink(lines_key(ident))
    await client.zrem(OPEN, ident)


async def add_fact(client: Redis, ident: str, name: str, value: str, *others: str) -> None:
    """Add a fact to a batch, unless it or one of the others is there."""
    await script(client, ADD_FACT, [batch_key(ident)], name, value, *others)


async def read_batch(client: Redis, ident: str) -> BatchRecord | None:
    """A batch."""
    waiting: Any = client.hgetall(batch_key(ident))
    return BatchRecord.read(await waiting)


async def read_batches(client: Redis, idents: Sequence[str]) -> list[BatchRecord]:
    """Those batches that there are."""
    pipe = client.pipeline(transaction=False)
    for ident in idents:
        pipe.hgetall(batch_key(ident))
    found = [BatchRecord.read(fields) for fields in await pipe.execute()] if idents else []
    return [record for record in found if record is not None]


async def open_names(client: Redis) -> list[str]:
    """The batches that are not over, oldest first."""
    waiting: Any = client.zrangebylex(OPEN, "-", "+")
    return [name.decode() for name in await waiting]


async def read_open(client: Redis) -> list[BatchRecord]:
    """The same, read."""
    return await read_batches(client, await open_names(client))


def now() -> str:
    """The time as it is kept, in seconds since the epoch."""
    return str(int(time.time()))


def batch_key(ident: str) -> str:
    """Where a batch stands; the braces put its keys on one node of a Redis cluster."""
    return f"symmoe:batch:{{{ident}}}"


def lines_key(ident: str) -> str:
    """Where the rows of its lines stand, by line number."""
    return f"{batch_key(ident)}:lines"
