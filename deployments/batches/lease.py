"""One runner at a time on one batch, on whatever machine it is."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from ..storage import Storage
from .store_access import patiently, script

if TYPE_CHECKING:
    from redis.asyncio import Redis

_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Leases:
    """Leases of one process, `seconds` long. A lease that the store has forgotten is taken up again."""

    def __init__(self, storage: Storage, seconds: float) -> None:
        self._storage, self._milliseconds = storage, max(1, round(1000 * seconds))
        self._holder = secrets.token_hex(12)

    async def hold(self, ident: str) -> bool:
        """Take or renew the lease of a batch; False if somebody else has it."""

        async def work(client: Redis) -> bool:
            return bool(await script(client, _RENEW, [_key(ident)], self._holder, self._milliseconds))

        return await patiently(self._storage, work)

    async def release(self, ident: str) -> None:
        """Let others have it at once. Raises `StoreError`; it ends by itself in any case."""

        async def work(client: Redis) -> None:
            await script(client, _RELEASE, [_key(ident)], self._holder)

        await self._storage.do(work)


def _key(ident: str) -> str:
    return f"symmoe:batch:{{{ident}}}:lease"
