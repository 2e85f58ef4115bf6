from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count

import pytest
from symmoe.deployments.lifecycle.reachable import reachable


def looks(*states: Mapping[str, str], seconds: float) -> int:
    """How often is looked, each time so much later, at what the states say one after the other, the last for ever."""
    seen: list[Mapping[str, str]] = []
    later = count(0, seconds)

    def look() -> Mapping[str, str]:
        seen.append(states[min(len(seen), len(states) - 1)])
        return seen[-1]

    asyncio.run(reachable(look, "here", lambda: float(next(later))))
    return len(seen)


@pytest.mark.parametrize(
    ("states", "seconds", "expected"),
    [
        (({"here": "HEALTHY"},), 1.0, 1),
        (({}, {"here": "STARTING", "there": "HEALTHY"}, {"here": "HEALTHY"}), 1.0, 3),
        (({"there": "HEALTHY"},), 2.5, 2),
        (({"here": "STARTING"},), 25.0, 2),
    ],
    ids=["it takes requests", "it comes", "none comes here", "it does not come up"],
)
def test_a_replica_waits_for_the_proxy_beside_it(
    states: tuple[Mapping[str, str], ...], seconds: float, expected: int
) -> None:
    assert looks(*states, seconds=seconds) == expected
