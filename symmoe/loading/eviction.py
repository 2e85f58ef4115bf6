"""Which images leave the host tier: Belady's rule where the order of use is known, least recently used where not.

Belady, A study of replacement algorithms for a virtual-storage computer (IBM Systems Journal 5, 1966): evicting what is
needed again furthest in the future gives the fewest misses. It needs the future, which a batch's plan is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Standing:
    """How much an image is worth keeping: the place of its next use in the known order, and when it was last used."""

    key: str
    next_use: float
    last_use: int


class KnownOrder:
    """The uses that are known to come, soonest first. Each use takes the first mention of its key out."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._places: dict[str, deque[int]] = {}
        for place, key in enumerate(keys):
            self._places.setdefault(key, deque()).append(place)

    def next_use(self, key: str) -> float:
        """The place of the key's next use, comparable within this order only; `NEVER` if it names none."""
        places = self._places.get(key)
        return places[0] if places else NEVER

    def used(self, key: str) -> None:
        """The key is in use now; what the order says of it is about later uses from here on."""
        places = self._places.get(key)
        if places:
            places.popleft()


def eviction_order(standings: Iterable[Standing]) -> list[str]:
    """The keys in the order in which to evict them: furthest next use first, of equals the least recently used."""
    return [one.key for one in sorted(standings, key=lambda one: (-one.next_use, one.last_use))]


def needed_later(standings: Iterable[Standing], than: float) -> list[Standing]:
    """Those that an image next used at `than` may push out: needed after it, or, like it, not known to be needed."""
    return [one for one in standings if one.next_use > than or one.next_use == than == NEVER]


def victims(order: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> list[str] | None:
    """The fewest first keys of `order` whose eviction makes room, less those among them that turn out not to help.

    `fits` says whether there is room once the given keys are gone. None if there is none with all of `order` gone.
    """
    count = next((n for n in range(len(order) + 1) if fits(order[:n])), None)
    if count is None:
        return None
    chosen = list(order[:count])
    for key in order[:count][::-1]:  # most worth keeping first: free bytes elsewhere do not help a fragmented arena
        without = [other for other in chosen if other != key]
        if fits(without):
            chosen = without
    return chosen
