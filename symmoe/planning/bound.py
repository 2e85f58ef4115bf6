"""How short any schedule could be: a lower bound of the makespan."""

from __future__ import annotations

import math
from collections import Counter

from symmoe.planning.problem import Instance

_STEPS = 60
_GRAIN = 1e-9


def lower_bound(instance: Instance) -> float:
    """Seconds below which no schedule ends, whatever is split and wherever it runs.

    Bisection on T. A worker that loads expert e has room for ⌊(T - load_e) / request_e⌋ of its requests before T, so e
    needs at least so many loads (`loads_needed`); loads and work must fit into workers · T; and experts of one model
    that do not fit on the workers that have it running need it started on so many others.
    """
    if not instance.names:
        return 0.0
    low, high = 0.0, sum(instance.size(expert) for expert in instance.experts)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _possible(instance, middle) else (middle, high)
    return low


def loads_needed(instance: Instance, expert: int, seconds: float) -> int | None:
    """How many workers must at least load an expert for it to end in time; None where that many are not there.

    Those that have it ready are not counted.
    """
    left, loads = instance.counts[expert], 0
    for load, workers in sorted(instance.rooms[expert].items()):
        room = _room(seconds - load, instance.request[expert], left)
        if left <= 0 or room <= 0:
            break
        taken = min(math.ceil(left / room), workers)
        left -= taken * room
        loads += taken if load > 0 else 0
    return loads if left <= 0 else None


def _possible(instance: Instance, seconds: float) -> bool:
    """False only if no schedule ends by then."""
    used: dict[int, float] = {}
    for expert in instance.experts:
        loads = loads_needed(instance, expert, seconds)
        if loads is None:
            return False
        needed = loads * instance.swap[expert] + instance.counts[expert] * instance.request[expert]
        used[instance.model[expert]] = used.get(instance.model[expert], 0.0) + needed
    running = Counter(instance.running)
    start = dict(zip(instance.model, instance.start, strict=True))
    for model, needed in used.items():
        beyond = needed - running[model] * seconds
        if beyond <= seconds * _GRAIN or start[model] <= 0:
            continue
        starts = math.ceil(beyond / max(seconds - start[model], _GRAIN) - _GRAIN)
        if starts + running[model] > len(instance.workers):
            return False
        used[model] += starts * start[model]
    return sum(used.values()) <= len(instance.workers) * seconds * (1 + _GRAIN)


def _room(seconds: float, request: float, most: int) -> int:
    """How many requests fit into a time."""
    if seconds < 0:
        return 0
    return most if request * most <= seconds else math.floor(seconds / request * (1 + _GRAIN))
