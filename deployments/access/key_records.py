"""Keys as they lie in the store: their SHA-256 and what is known of them, never the keys themselves.

A digest without salt is enough: a key is 256 random bits, so there is no dictionary to try and no two keys are equal.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from symmoe.errors import ConfigError

from ..storage import durably
from .breaker import Stored
from .callers import BudgetPer

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "sk-symmoe-"
_BYTES = 32
_LENGTH = len(PREFIX) + 43  # 32 bytes in base64 without padding
_TABLE = "symmoe:keys"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key. `id` is drawn, not derived from it; times are seconds since 1970; None is no limit.

    The key of an `admin` may change which experts and keys there are, and see everybody's traces. What a key spends in
    each `budget_per` may reach its `budget`, in the pool's currency; days and months are those of UTC. What is kept and
    counted is the `owner`'s: the id of the first of the keys that took each other's place, "" for that one itself.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: str
    name: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    admin: bool = False
    budget: float | None = None
    budget_per: BudgetPer = "month"
    owner: str = ""

    @property
    def whose(self) -> str:
        """The owner's id."""
        return self.owner or self.id

    def facts(self, now: float) -> dict[str, Any]:
        """All of it for people and programs, times as ISO 8601."""
        told = {name: value for name, value in asdict(self).items() if name != "admin"}
        told["budget_per"] = None if self.budget is None else self.budget_per
        dates = {name: _date(told[name]) for name in ("created", "expires", "revoked")}
        return {
            **told,
            **dates,
            "owner": self.whose,
            "state": self.state(now),
            "scope": "admin" if self.admin else "ask",
        }

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


Note = Callable[[KeyRecord | None], None]
_Row = TypeAdapter(KeyRecord)


def new_key() -> str:
    """A key of 256 random bits; whoever makes it shows it once."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def checked_name(name: str) -> str:
    """A name for people, without spaces around it. Raises `ConfigError` for what is none, or may be a key."""
    name = name.strip()
    if not 0 < len(name) <= 100 or not name.isprintable() or PREFIX in name:
        raise ConfigError("that is no name for a key", hint="give 1 to 100 printable characters, and no key")
    return name


def new_id() -> str:
    """A name for a key, from which it cannot be told."""
    return f"key-{secrets.token_hex(6)}"


def digest(key: str) -> str | None:
    """What the store knows a key by; None for what cannot be one."""
    if not key.startswith(PREFIX) or len(key) != _LENGTH or not key.isascii():
        return None
    return hashlib.sha256(key.encode()).hexdigest()


async def add(stored: Stored, key: str, record: KeyRecord) -> None:
    """Put a key of `new_key` into the store, on its disk. Raises `StoreError`."""
    name = digest(key)
    if name is None:
        raise ValueError("not a key of new_key")
    row = json.dumps(asdict(record))

    async def work(client: Redis) -> None:
        await durably(client, lambda pipe: pipe.hsetnx(_TABLE, name, row))

    await stored.do(work)


async def find(stored: Stored, name: str, note: Note = lambda record: None) -> KeyRecord | None:
    """The record of a key by its digest; `note` is told it too, and that also once nobody waits for it any more.

    Raises `StoreError`.
    """

    async def work(client: Redis) -> KeyRecord | None:
        row: bytes | None = await client.hget(_TABLE, name)  # type: ignore[assignment]
        record = None if row is None else _parse(row)
        note(record)
        return record

    return await stored.do(work)


async def find_named(stored: Stored, ident: str, note: Note = lambda record: None) -> KeyRecord | None:
    """The same by its owner's id: of keys that took each other's place one that is active, if one is."""

    async def work(client: Redis) -> KeyRecord | None:
        now, own = time.time(), [record for _, record in await _rows(client) if record.whose == ident]
        record = max(own, key=lambda each: (each.state(now) == "active", each.created), default=None)
        note(record)
        return record

    return await stored.do(work)


async def everyone(stored: Stored) -> list[KeyRecord]:
    """Every key's record, oldest first. Raises `StoreError`."""
    return sorted((record for _, record in await stored.do(_rows)), key=lambda record: record.created)


async def revoke(stored: Stored, ident: str, now: float) -> KeyRecord | None:
    """Revoke a key for good by its id; None if there is none. Revoked again, it stays as it is.

    It is on the store's disk when this returns: no crash brings the key back. Where the store's memory is full, the
    record is dropped instead. Raises `StoreError`.
    """
    for name, record in await stored.do(_rows):
        if record.id == ident:
            return record if record.revoked is not None else await _replace(stored, name, replace(record, revoked=now))
    return None


async def rotate(stored: Stored, ident: str, key: str, now: float, overlap: float) -> KeyRecord | None:
    """Put `key`, one of `new_key`, in the place of the one with that id, whose owner it has; None if there is none.

    It may the same for as long. The old one ends after `overlap` seconds, if it does not before. Raises `StoreError`.
    """
    for name, old in await stored.do(_rows):
        if old.id != ident:
            continue
        ends = None if old.expires is None else now + old.expires - old.created
        new = replace(old, id=new_id(), created=now, expires=ends, revoked=None, owner=old.whose)
        await add(stored, key, new)
        if old.state(now) == "active":
            soon = now + overlap if old.expires is None else min(old.expires, now + overlap)
            await _replace(stored, name, replace(old, expires=soon))
        return new
    return None


async def _replace(stored: Stored, name: str, record: KeyRecord) -> KeyRecord:
    row = json.dumps(asdict(record))

    async def work(client: Redis) -> None:
        from redis.exceptions import OutOfMemoryError

        try:
            await durably(client, lambda pipe: pipe.hset(_TABLE, name, row))
        except OutOfMemoryError:  # a full store takes nothing, but lets go: a key that it does not know is refused too
            await durably(client, lambda pipe: pipe.hdel(_TABLE, name))

    await stored.do(work)
    return record


async def _rows(client: Redis) -> Sequence[tuple[str, KeyRecord]]:
    rows: dict[bytes, bytes] = await client.hgetall(_TABLE)  # type: ignore[assignment]
    return [
        (name.decode(errors="replace"), record) for name, row in rows.items() if (record := _parse(row)) is not None
    ]


def _parse(row: bytes) -> KeyRecord | None:
    """A record; None for a row that is none: it opens nothing, and breaks nothing for other keys."""
    try:
        return _Row.validate_json(row)
    except ValidationError:
        return None


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
