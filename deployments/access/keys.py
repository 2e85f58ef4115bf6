"""Who may ask: keys, as they lie in the store, and the callers that they stand for.

The store holds the SHA-256 of keys and what is known of them, never the keys themselves. A digest without salt is
enough: a key is 256 random bits, so there is no dictionary to try and no two keys are equal.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import secrets
import time
from asyncio import Task
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError

from symmoe.errors import ConfigError, JobError, StoreError

from ..storage import durably
from .breaker import Stored

if TYPE_CHECKING:
    from redis.asyncio import Redis


NOBODY = "anonymous"
BudgetPer = Literal["day", "month", "ever"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. `id` is that of the key's owner (`KeyRecord.whose`); the key cannot be told from it.

    Limits are counts in a minute, and the `budget` is in the pool's currency; None is no limit. An `admin` may change
    which experts there are.
    """

    id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    admin: bool = False
    budget: float | None = None
    budget_per: BudgetPer = "month"


class Keys(Protocol):
    """Knows the keys of a service."""

    @property
    def required(self) -> bool:
        """Whether a request without a key is turned away."""
        ...

    async def caller(self, key: str | None) -> Caller | None:
        """The caller of a key; None for a key that is not known, expired or revoked. May raise `StoreError`."""
        ...

    async def named(self, ident: str) -> Caller | None:
        """The caller of that id; None where no key of it is active. May raise `StoreError`."""
        ...


class Open:
    """Asks for no keys: every request has the same caller. For loopback only; that caller may be an `admin`."""

    required = False

    def __init__(self, admin: bool = False) -> None:
        self._caller = Caller(NOBODY, admin=admin)

    async def caller(self, key: str | None) -> Caller | None:
        """The one caller there is, whatever the key."""
        return self._caller

    async def named(self, ident: str) -> Caller | None:
        """The one caller there is, also for what was begun with a key."""
        return self._caller


def bearer(authorization: str | None) -> str | None:
    """The key in an `Authorization` header of the form `Bearer KEY`; None for any other."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key of a request: in `Authorization`, as OpenAI's clients send it, or in `x-api-key`; None without either."""
    return bearer(headers.get("authorization")) or headers.get("x-api-key", "").strip() or None


def check_exposure(host: str, keys: bool, cluster: str | None = None) -> None:
    """Raise `JobError` for a service that others could reach, also by its `cluster`, and that checks no `keys`."""
    exposed = f"a service on the cluster at {cluster} may be reached from elsewhere" if cluster is not None else ""
    if not exposed and not is_loopback(host):
        exposed = f"{host} can be reached from other machines"
    if exposed and not keys:
        raise JobError(
            f"{exposed}, and no keys would be checked",
            hint="make one with `symmoe key create NAME`, and serve with `--keys`",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


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
        """The record as JSON types: dates in ISO 8601, its state at `now`, and as `scope` `admin` or `ask`."""
        fields = {name: value for name, value in asdict(self).items() if name != "admin"}
        fields["budget_per"] = None if self.budget is None else self.budget_per
        dates = {name: _date(fields[name]) for name in ("created", "expires", "revoked")}
        return {
            **fields,
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
    """The record of a key by its owner's id: of keys that replaced each other an active one, else the newest.

    `note` is told it as by `find`. Raises `StoreError`.
    """

    async def work(client: Redis) -> KeyRecord | None:
        now, records = time.time(), [record for _, record in await _rows(client) if record.whose == ident]
        record = max(records, key=lambda each: (each.state(now) == "active", each.created), default=None)
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

    It has the same limits, and expires after as long a time. The old key ends after `overlap` seconds at the latest.
    Raises `StoreError`.
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


Find = Callable[[Stored, str, Note], Coroutine[Any, Any, KeyRecord | None]]
_FRESH = 1.0
_KNOWN = 300.0
_MOST = 10_000


class StoredKeys:
    """The keys of the store, each looked up again once what is known of it is `fresh` seconds old.

    A revoked key is so refused within that time. While the store does not answer, a key that it confirmed within the
    last `known` seconds goes on being accepted: nobody can revoke a key meanwhile, and a short outage costs no request.
    A store that is merely slow is not waited for, but heard when it answers: it may have taken a revocation in.
    """

    required = True

    def __init__(self, stored: Stored, fresh: float = _FRESH, known: float = _KNOWN) -> None:
        self._stored, self._fresh, self._known = stored, fresh, known
        self._seen: OrderedDict[str, tuple[float, KeyRecord | None]] = OrderedDict()
        self._asked: dict[str, Task[KeyRecord | None]] = {}

    async def caller(self, key: str | None) -> Caller | None:
        """Whose key this is; None for one that is not known, expired or revoked.

        Raises `StoreError` where that cannot be told.
        """
        name = None if key is None else digest(key)
        return None if name is None else _caller(await self._record(name, find))

    async def named(self, ident: str) -> Caller | None:
        """The caller of that id; None where no key of it is active. May raise `StoreError`."""
        return _caller(await self._record(ident, find_named))

    async def _record(self, name: str, find: Find) -> KeyRecord | None:
        now = time.monotonic()
        at, seen = self._seen.get(name, (0.0, None))
        if seen is not None and now - at < self._fresh:
            return seen
        try:
            return await self._found(name, now, find)
        except StoreError:
            at, seen = self._seen.get(name, (0.0, None))  # a late answer may have come meanwhile
            if seen is None or now - at > self._known:
                raise
            return seen

    async def _found(self, name: str, now: float, find: Find) -> KeyRecord | None:
        """What the store knows, which is asked once for all who want to know it at the same time."""
        lookup = self._asked.get(name)
        if lookup is None:
            lookup = self._asked[name] = asyncio.ensure_future(
                find(self._stored, name, lambda record: self._remember(name, now, record))
            )
            lookup.add_done_callback(partial(self._answered, name))
        return await asyncio.shield(lookup)

    def _answered(self, name: str, lookup: Task[KeyRecord | None]) -> None:
        del self._asked[name]
        if not lookup.cancelled():
            lookup.exception()  # looked at, as everybody who waited may have left

    def _remember(self, name: str, now: float, record: KeyRecord | None) -> None:
        """Only what is a key is remembered: guesses cannot push out anybody's. A late answer replaces no later one."""
        if now < self._seen.get(name, (0.0, None))[0]:
            return
        good = record is not None and record.revoked is None
        if self._seen.pop(name, None) is not None or good:
            self._seen[name] = now, record if good else None
            if len(self._seen) > _MOST:
                self._seen.popitem(last=False)


def _caller(record: KeyRecord | None) -> Caller | None:
    if record is None or record.state(time.time()) != "active":
        return None
    limits = record.requests_per_minute, record.tokens_per_minute
    return Caller(record.whose, *limits, record.admin, record.budget, record.budget_per)


_EVERY = 1.0


@dataclass(slots=True, eq=False)
class _Stream:
    key: str
    end: Callable[[], None]


class KeyWatch:
    """Ends open streams whose key was revoked or has expired. Each key is looked up once every `every` seconds.

    While the store does not answer, streams go on: they began with a good key.
    """

    def __init__(self, keys: Keys, every: float = _EVERY) -> None:
        self._keys, self._every = keys, every
        self._open: set[_Stream] = set()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watched(self, key: str | None, end: Callable[[], None]) -> Iterator[None]:
        """Call `end` if the key is revoked or expires before the block ends."""
        if key is None or not self._keys.required:
            yield
            return
        stream = _Stream(key, end)
        self._open.add(stream)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            self._open.discard(stream)
            if not self._open and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _look_on(self) -> None:
        while self._open:
            await asyncio.sleep(self._every)
            for key in {stream.key for stream in self._open}:
                if not await self._good(key):
                    self._end([stream for stream in self._open if stream.key == key])

    def _end(self, streams: list[_Stream]) -> None:
        for stream in streams:
            self._open.discard(stream)
            stream.end()

    async def _good(self, key: str) -> bool:
        try:
            return await self._keys.caller(key) is not None
        except StoreError:
            return True
