"""A crowd of clients, in a process of its own so that neither side's threads wait for the other's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from symmoe.errors import EngineError

from .client import send
from .load import Load, Outcome, load_from_json, load_to_json
from .tied import tied

_PATIENCE = 900.0


def crowd(url: str, load: Load) -> list[Outcome]:
    """What becomes of every request of a load on the service at `url`, sent from another process.

    Raises `EngineError` if that process fails.
    """
    order = json.dumps({"url": url, "load": load_to_json(load)})
    done = subprocess.run(tied(["-m", __name__]), input=order, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise EngineError(f"the clients failed: {said}")
    return [Outcome(**row) for row in json.loads(done.stdout)]


async def run(url: str, load: Load) -> list[Outcome]:
    """The same in this process."""
    import httpx

    limits, began = httpx.Limits(max_connections=None), time.perf_counter()
    outcomes: list[Outcome] = []

    def clock() -> float:
        return time.perf_counter() - began

    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=_PATIENCE, trust_env=False) as client:

        async def follow(number: int, since: float | None = None) -> None:
            for place, ask in enumerate(load.chains[number]):
                outcomes.append(await send(client, ask, number, place, clock, None if place else since))

        if load.arrivals is None:
            await _closed(load, follow, clock)
        else:
            await _open(load.arrivals, follow, clock)
    return outcomes


async def _closed(load: Load, follow: Callable[..., Any], clock: Callable[[], float]) -> None:
    waiting = _turns(load, clock)

    async def client() -> None:
        for number in waiting:
            await follow(number)

    await asyncio.gather(*(client() for _ in range(load.clients)))


def _turns(load: Load, clock: Callable[[], float]) -> Iterator[int]:
    """The numbers of the chains, in order: once, or again and again while there is time."""
    if load.seconds is None:
        yield from range(len(load.chains))
        return
    number = 0
    while clock() < load.seconds:
        yield number % len(load.chains)
        number += 1


async def _open(arrivals: tuple[float, ...], follow: Callable[..., Any], clock: Callable[[], float]) -> None:
    async def arrive(number: int, at: float) -> None:
        await asyncio.sleep(max(0.0, at - clock()))
        await follow(number, at)  # a client that comes late makes nobody else look faster

    await asyncio.gather(*(arrive(number, at) for number, at in enumerate(arrivals)))


if __name__ == "__main__":
    order = json.load(sys.stdin)
    followed = asyncio.run(run(order["url"], load_from_json(order["load"])))
    json.dump([asdict(outcome) for outcome in followed], sys.stdout)
