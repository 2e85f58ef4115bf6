"""Batches in the store: what a record is, where it stands, and how the service's paths reach it.

A record is facts that are only ever added, from which its state follows. What is looked for often is found by owner or
by file, and counted by the store: how many batches of an owner are open, which those are, and whether one is made of a
file. The steps of a script are one; none reads or writes more than a page of what there is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from symmoe.limits import RECORDS_AT_ONCE

from ..settings import Settings
from ..storage import Storage
from .store_access import Page, durably, names, pages, script

if TYPE_CHECKING:
    from redis.asyncio import Redis


Outcome = Literal["completed", "failed", "expired", "cancelled"]
State = Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
ENDPOINT, WINDOW = "/v1/chat/completions", "24h"
_TIMES = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch. `output` and `error` are ids that its files will have; times are whole seconds since the epoch.

    Its files are kept for `keep` seconds once they are there, None for always.

    `facts` are what became of it: times by name, `total`, `answered` and `failed` lines, the `outcome` once that is
    decided, `ending` once its files are there, `ended` once that is safe, until when it is listed then
    (`listed_until`), and which of the two there are (`has_output`, `has_error`).
    """

    id: str
    owner: str
    input: str
    output: str
    error: str
    created: int
    expires: int
    metadata: Mapping[str, str] | None = None
    keep: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """In OpenAI's words."""
        ended: Any = self.facts.get("ended")
        if ended:
            return ended  # type: ignore[no-any-return]
        if "cancelling_at" in self.facts:
            return "cancelling"
        if "finalizing_at" in self.facts:
            return "finalizing"
        return "in_progress" if "in_progress_at" in self.facts else "validating"

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return "ended" in self.facts

    @property
    def document(self) -> dict[str, Any]:
        """The batch in OpenAI's shape."""
        facts = self.facts
        counts = {"total": "total", "completed": "answered", "failed": "failed"}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": json.loads(facts["errors"]) if "errors" in facts else None,
            "input_file_id": self.input,
            "completion_window": WINDOW,
            "status": self.state,
            "output_file_id": self.output if facts.get("has_output") == "1" and self.ended else None,
            "error_file_id": self.error if facts.get("has_error") == "1" and self.ended else None,
            "created_at": self.created,
            "expires_at": self.expires,
            **{name: int(facts[name]) if name in facts else None for name in _TIMES},
            "request_counts": {label: int(facts.get(name, 0)) for label, name in counts.items()},
            "metadata": None if self.metadata is None else dict(self.metadata),
            **({"symmoe": {"listed_until": int(facts["listed_until"])}} if "listed_until" in facts else {}),
        }

    @property
    def fixed(self) -> str:
        """What never changes of it, as JSON."""
        names = ("id", "owner", "input", "output", "error", "created", "expires", "keep")
        metadata = None if self.metadata is None else dict(self.metadata)
        return json.dumps({**{name: getattr(self, name) for name in names}, "metadata": metadata}, ensure_ascii=False)

    @classmethod
    def read(cls, fields: Mapping[bytes, bytes]) -> BatchRecord | None:
        """The batch out of its hash in the store; None if there is none."""
        facts = {name.decode(): value.decode() for name, value in fields.items()}
        fixed = facts.pop("fixed", None)
        return None if fixed is None else cls(**json.loads(fixed), facts=facts)


OWNERS = "symmoe:batches:owners"
"""Those who have open batches."""
EXPIRING = "symmoe:batches:expiring"
"""Batches that are over, by when they are forgotten."""

CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
if redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], 'fixed', ARGV[3])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
redis.call('ZADD', KEYS[4], 0, ARGV[1])
redis.call('SADD', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[7], 0, ARGV[2])
return 1
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
    batch_keys = [batch_key(ident), lines_key(ident)]
    return [*batch_keys, batches_of(owner), open_of(owner), _ended_of(owner), made_of(file), OWNERS, EXPIRING]


async def close(client: Redis, record: BatchRecord, outcome: str, at: int, seconds: float, most: int) -> None:
    """End a batch, whose record is kept for so many `seconds` (0: always), among the last `most` of its owner."""
    until = str(at + max(1, round(seconds))) if seconds > 0 else ""
    keys = keys_of(record.id, record.owner, record.input)
    await script(client, CLOSE, keys, record.id, record.owner, outcome, at, until, most)


async def forget_unknown(client: Redis, ident: str, owner: str) -> None:
    """List a batch no more whose record was lost."""
    await script(client, CLOSE, keys_of(ident, owner, ""), ident, owner, "", 0, "", 1 << 30)


async def expire(client: Redis, now: int) -> int:
    """Forget batches whose time is over, a page of them at most; how many."""
    waiting: Any = client.zrangebyscore(EXPIRING, "-inf", now, 0, RECORDS_AT_ONCE)
    due = [name.decode() for name in await waiting]
    records = await read_batches(client, due)
    pipe = client.pipeline(transaction=False)
    for record in records:
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
    records: list[BatchRecord | None] = []
    for start in range(0, len(idents), RECORDS_AT_ONCE):
        pipe = client.pipeline(transaction=False)
        for ident in idents[start : start + RECORDS_AT_ONCE]:
            pipe.hgetall(batch_key(ident))
        records += [BatchRecord.read(fields) for fields in await pipe.execute()]
    return [record for record in records if record is not None]


async def open_names(client: Redis, most: int) -> dict[str, list[str]]:
    """The open batches of each owner who has some: the oldest first, `most` of each."""
    by_owner: dict[str, list[str]] = {}
    async for owners in pages(client, OWNERS):
        pipe = client.pipeline(transaction=False)
        for owner in owners:
            pipe.zrangebylex(open_of(owner), "-", "+", 0, most)
        for owner, listed in zip(owners, await pipe.execute(), strict=True):
            by_owner[owner] = [name.decode() for name in listed]
    return by_owner


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


class Batches:
    """The batches of a service, for its paths. All of it may raise `StoreError`."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage, self._most = storage, settings.most_open_batches

    async def create(self, record: BatchRecord) -> bool:
        """A new batch, safe on the server's disk before anybody is told of it; False where its owner has too many."""

        async def work(client: Redis) -> bool:
            keys = keys_of(record.id, record.owner, record.input)
            words = (record.id, record.owner, record.fixed, self._most)
            made, *_ = await durably(client, lambda pipe: pipe.eval(CREATE, len(keys), *keys, *words))
            return bool(made)

        return await self._storage.do(work)

    async def get(self, ident: str, owner: str) -> BatchRecord | None:
        """A batch of this owner's; None for any other."""
        record = await self._storage.do(lambda client: read_batch(client, ident))
        return record if record is not None and record.owner == owner else None

    async def page(self, owner: str, page: Page) -> tuple[list[BatchRecord], bool]:
        """A page of an owner's batches, and whether there are more."""

        async def work(client: Redis) -> tuple[list[BatchRecord], bool]:
            idents, more = await names(client, batches_of(owner), page)
            return await read_batches(client, idents), more

        return await self._storage.do(work)

    async def cancel(self, ident: str) -> bool:
        """Have a batch cancelled; False if its end was decided before."""

        async def work(client: Redis) -> None:
            words = ("cancelling_at", now(), "outcome", "ended")
            await durably(client, lambda pipe: pipe.eval(ADD_FACT, 1, batch_key(ident), *words))

        await self._storage.do(work)
        record = await self._storage.do(lambda client: read_batch(client, ident))
        return record is not None and "cancelling_at" in record.facts

    async def open_of(self, owner: str) -> tuple[int, int]:
        """How many batches of an owner are not over, and how many bytes their rows take."""

        async def work(client: Redis) -> tuple[int, int]:
            waiting: Any = client.zrangebylex(open_of(owner), "-", "+", 0, self._most)
            pipe = client.pipeline(transaction=False)
            pipe.zcard(open_of(owner))
            for name in await waiting:
                pipe.hget(batch_key(name.decode()), "row_bytes")
            opened, *rows = await pipe.execute()
            return int(opened), sum(int(size) for size in rows if size is not None)

        return await self._storage.do(work)

    async def using(self, file: str) -> bool:
        """Whether a batch that is not over is made of this file."""
        return bool(await self._storage.do(lambda client: client.exists(made_of(file))))
