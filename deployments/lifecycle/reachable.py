"""Whether clients can reach a replica: a proxy of Ray Serve begins beside it, and may need longer than it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

_LOOK_SECONDS = 0.2
_NONE_SECONDS, _LONGEST_SECONDS = 5.0, 60.0


async def reachable(
    proxies: Callable[[], Mapping[str, str]] | None = None,
    node: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until this node's proxy takes requests; not where it gets none, nor longer than a minute.

    `proxies` tells the state of each node's, Ray Serve's where it is None, and `node` is this one.
    """
    look = _of_ray_serve if proxies is None else proxies
    own = _this_node() if node is None else node
    began = clock()
    while (waited := clock() - began) < _LONGEST_SECONDS:
        found = await asyncio.to_thread(look)
        if found.get(own) == "HEALTHY" or (own not in found and waited >= _NONE_SECONDS):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _of_ray_serve() -> Mapping[str, str]:
    from ray import serve

    return {node: str(state.value) for node, state in serve.status().proxies.items()}


def _this_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
