"""Keys as they lie in the store: their SHA-256 and what is known of them, never the keys themselves.

A digest without salt is enough: a key is 256 random bits, so there is no dictionary to try and no two keys are equal.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from .breaker import Stored

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "sk-symmoe-"
_BYTES = 32
_LENGTH = len(PREFIX) + 43  # 32 bytes in base64 without padding
_TABLE = "symmoe:keys"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key. `id` is drawn, not derived from it; times are seconds since 1970; None is no limit.

    The key of an `admin` may change which experts there are.
    """

    id: str
    name: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    admin: bool = False

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


def new_key() -> str:
    """A key of 256 random bits; whoever makes it shows it once."""
    return PREFIX + secrets.token_urlsafe(_BYTES)


def new_id() -> str:
    """A name for a key, from which it cannot be told."""
    return f"key-{secrets.token_hex(6)}"


def digest(key: str) -> str | None:
    """What the store knows a key by; None for what cannot be one."""
    if not key.startswith(PREFIX) or len(key) != _LENGTH or not key.isascii():
        return None
    return hashlib.sha256(key.encode()).hexdigest()


async def add(stored: Stored, key: str, record: KeyRecord) -> None:
    """Put a key of `new_key` into the store. Raises `StoreError`."""
    name = digest(key)
    if name is None:
        raise ValueError("not a key of new_key")
    row = json.dumps(asdict(record))

    async def work(client: Redis) -> None:
        await client.hsetnx(_TABLE, name, row)

    await stored.do(work)


async def find(stored: Stored, name: str) -> KeyRecord | None:
    """The record of a key by its digest. Raises `StoreError`."""

    async def work(client: Redis) -> bytes | None:
        row: bytes | None = await client.hget(_TABLE, name)  # type: ignore[assignment]
        return row

    row = await stored.do(work)
    return None if row is None else KeyRecord(**json.loads(row))


async def find_named(stored: Stored, ident: str) -> KeyRecord | None:
    """The record of a key by its id. Raises `StoreError`."""
    return next((record for _, record in await _rows(stored) if record.id == ident), None)


async def everyone(stored: Stored) -> list[KeyRecord]:
    """Every key's record, oldest first. Raises `StoreError`."""
    return sorted((record for _, record in await _rows(stored)), key=lambda record: record.created)


async def revoke(stored: Stored, ident: str, now: float) -> KeyRecord | None:
    """Revoke a key for good by its id; None if there is none. Revoked again, it stays as it is. Raises `StoreError`."""
    for name, record in await _rows(stored):
        if record.id == ident:
            return record if record.revoked is not None else await _replace(stored, name, replace(record, revoked=now))
    return None


async def _replace(stored: Stored, name: str, record: KeyRecord) -> KeyRecord:
    row = json.dumps(asdict(record))

    async def work(client: Redis) -> None:
        await client.hset(_TABLE, name, row)

    await stored.do(work)
    return record


async def _rows(stored: Stored) -> Sequence[tuple[str, KeyRecord]]:
    async def work(client: Redis) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = await client.hgetall(_TABLE)  # type: ignore[assignment]
        return rows

    return [(name.decode(), KeyRecord(**json.loads(row))) for name, row in (await stored.do(work)).items()]
