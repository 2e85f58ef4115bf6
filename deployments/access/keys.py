"""Keys that are looked up in the store."""

from __future__ import annotations

import asyncio
import time
from asyncio import Task
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from symmoe.errors import StoreError

from .breaker import Stored
from .callers import Caller
from .key_records import KeyRecord, Note, digest, find, find_named

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
        """Whose id this is, as good and as fresh as for a key; of keys that took each other's place by any."""
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
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = asyncio.ensure_future(
                find(self._stored, name, lambda record: self._remember(name, now, record))
            )
            asked.add_done_callback(partial(self._answered, name))
        return await asyncio.shield(asked)

    def _answered(self, name: str, asked: Task[KeyRecord | None]) -> None:
        del self._asked[name]
        if not asked.cancelled():
            asked.exception()  # looked at, as everybody who waited may have left

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
