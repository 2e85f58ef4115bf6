"""Filling slots: the paper's draw with replacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from symmoe.types import Assignment, Query


def drawn(query: Query, shares: Mapping[str, float], k: int, seed: int) -> tuple[Assignment, ...]:
    """Draw k slots with replacement. The draw depends on the seed and the query's text, not on its neighbours."""
    rng = Random(f"{seed}/{query.text}")
    return numbered(query, rng.choices(list(shares), weights=list(shares.values()), k=k))


def numbered(query: Query, experts: Sequence[str]) -> tuple[Assignment, ...]:
    """One assignment for each expert named, repeats told apart by slot."""
    slots: dict[str, int] = {}
    assignments = []
    for expert in experts:
        slots[expert] = slots.get(expert, -1) + 1
        assignments.append(Assignment(query.id, expert, slots[expert]))
    return tuple(assignments)
