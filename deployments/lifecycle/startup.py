"""How a replica starts: which expert it makes ready first, and whether clients can reach it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

from symmoe.config import Pool
from symmoe.errors import StoreError
from symmoe.store import store_url

from ..access.breaker import Breaker
from ..storage import Storage
from .lifecycle import Keeper
from .roster import Roster

_PATIENCE = 5.0
_PAUSE = 0.5


def first_to_load(pool: Pool, patience: float = _PATIENCE) -> str | None:
    """The first expert of a pool that may be asked according to the store; None if none may.

    Also None if the store does not answer within so many seconds: the first request then chooses. Blocks, in a thread
    without an event loop.
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


_LOOK_SECONDS = 0.2
_NONE_SECONDS, _LONGEST_SECONDS = 5.0, 60.0


async def reachable(
    proxies: Callable[[], Mapping[str, str]] | None = None,
    node: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until this node's proxy takes requests, or it is clear that it has none; for at most a minute.

    `proxies` gives the state of each node's, Ray Serve's where it is None, and `node` is this one.
    """
    look = _of_ray_serve if proxies is None else proxies
    this_node = _this_node() if node is None else node
    began = clock()
    while (waited := clock() - began) < _LONGEST_SECONDS:
        states = await asyncio.to_thread(look)
        if states.get(this_node) == "HEALTHY" or (this_node not in states and waited >= _NONE_SECONDS):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _of_ray_serve() -> Mapping[str, str]:
    from ray import serve

    return {node: str(state.value) for node, state in serve.status().proxies.items()}


def _this_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
