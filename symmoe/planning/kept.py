"""Observations in the store, so that a later run knows what experts cost."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Sequence

from symmoe.planning.costs import WINDOW
from symmoe.protocols import Store
from symmoe.types import Observation, to_json

MOST_ROWS = 2000
"""From how many rows on only those that still count are kept."""


def keep_observations(store: Store, pool: str, observations: Sequence[Observation]) -> None:
    """Add observations to those of a pool, in their order.

    A row keeps its first value, so each has a key of its own, by time. Where there are more than `MOST_ROWS`, those
    that still count move to the next table. A writer that is late adds to the old one, and its observation is lost: it
    is one of many.
    """
    if not observations:
        return
    generation = _generation(store, pool)
    table = _table(pool, generation)
    store.put(table, _rows(observations))
    kept = recall_observations(store, pool)
    if len(kept) > MOST_ROWS:
        store.put(_table(pool, generation + 1), _rows(_counting(kept)))
        store.put(_generations(pool), {f"{generation + 1:08d}": {}})
        store.drop([table])


def recall_observations(store: Store, pool: str) -> list[Observation]:
    """The observations of a pool, oldest first."""
    rows = store.rows(_table(pool, _generation(store, pool)))
    return [Observation(**row) for _, row in sorted(rows.items())]


def _counting(observations: Sequence[Observation]) -> list[Observation]:
    """The last of each expert and lane, as many as a cost model looks at."""
    places: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for place, seen in enumerate(observations):
        places[seen.expert, seen.lane].append(place)
    return [observations[place] for place in sorted(p for found in places.values() for p in found[-WINDOW:])]


def _rows(observations: Sequence[Observation]) -> dict[str, dict[str, object]]:
    now, run = time.time_ns(), uuid.uuid4().hex[:8]
    return {f"{now:020d}-{run}-{number:06d}": to_json(seen) for number, seen in enumerate(observations)}


def _generation(store: Store, pool: str) -> int:
    return max(map(int, store.rows(_generations(pool))), default=0)


def _generations(pool: str) -> str:
    return f"costs:{pool}"


def _table(pool: str, generation: int) -> str:
    return f"costs:{pool}:{generation}"
