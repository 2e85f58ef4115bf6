"""Which expert a replica makes ready before anybody asks for one."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from symmoe.config import Pool
from symmoe.errors import StoreError
from symmoe.store import store_url

from ..access.breaker import Breaker
from ..storage import Storage
from .roster import Roster
from .roster_sync import Keeper

_PATIENCE = 5.0
_PAUSE = 0.5


def first_to_load(pool: Pool, patience: float = _PATIENCE) -> str | None:
    """The first expert of a pool that may be asked, as the store has it; None where none may.

    Also None where the store, if there may be one, does not answer within so many seconds: the first request then
    chooses. Blocks, in a thread without an event loop.
    """
    ends = time.monotonic() + patience
    while True:
        try:
            roster = asyncio.run(_read(pool, patience))
            return next((name for name in pool.names if roster.refusal(name) is None), None)
        except StoreError:
            if time.monotonic() + _PAUSE > ends:
                return None
        time.sleep(_PAUSE)


async def _read(pool: Pool, patience: float) -> Roster:
    roster, storage = Roster(pool, known=False), Storage(partial(store_url, patience))
    try:
        await Keeper(roster, pool.name, Breaker(storage)).look()
    finally:
        await storage.close()
    return roster
