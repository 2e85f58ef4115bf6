"""What clients ask of a service, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Literal

Kind = Literal["answer", "refused", "left", "broken"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. With `leave_after` its client closes the connection after so many seconds."""

    model: str
    text: str
    max_tokens: int
    stream: bool = False
    leave_after: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Chains of requests: each chain is sent by one client, one request after the other.

    Closed, `clients` work the chains off, for `seconds` over and over if that is given. Open, the n-th chain begins
    `arrivals[n]` seconds after the start, however many are still open.
    """

    chains: tuple[tuple[Ask, ...], ...]
    clients: int = 1
    arrivals: tuple[float, ...] | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request, the `place`-th of the `chain`-th chain. Times are seconds since the load began.

    kind    an `answer`; `refused` with a well-formed 429; `left`, its client having gone; `broken` is anything else
    first   when its first text came; None where it was not streamed
    tokens  that were generated, as the service counts them
    why     what is wrong with a broken one
    told    the service's own headers, without their prefix
    """

    chain: int
    place: int
    kind: Kind
    began: float
    ended: float
    first: float | None = None
    tokens: int = 0
    text: str = ""
    why: str = ""
    told: Mapping[str, str] = field(default_factory=dict)


def poisson(rate: float, count: int, seed: int) -> tuple[float, ...]:
    """Arrival times of a Poisson process of `rate` per second, the first after one interval."""
    random, now, times = Random(seed), 0.0, []
    for _ in range(count):
        now += random.expovariate(rate)
        times.append(now)
    return tuple(times)


def load_to_json(load: Load) -> dict[str, Any]:
    """A load as it travels to the process that sends it."""
    return asdict(load)


def load_from_json(document: Mapping[str, Any]) -> Load:
    """The load that `load_to_json` gave."""
    chains = tuple(tuple(Ask(**ask) for ask in chain) for chain in document["chains"])
    arrivals = document["arrivals"]
    return Load(chains, document["clients"], None if arrivals is None else tuple(arrivals), document["seconds"])


def closed(asks: Sequence[Ask], clients: int, seconds: float | None = None) -> Load:
    """So many clients, each of which asks again once it is answered."""
    return Load(tuple((ask,) for ask in asks), clients, None, seconds)


def opened(asks: Sequence[Ask], rate: float, seed: int) -> Load:
    """Requests that arrive at random, `rate` per second, whether or not earlier ones are answered."""
    return Load(tuple((ask,) for ask in asks), len(asks), poisson(rate, len(asks), seed))
