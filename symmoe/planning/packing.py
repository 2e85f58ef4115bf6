"""Filling workers up to a time: experts that fit nowhere whole are split."""

from __future__ import annotations

import heapq
import math

from symmoe.planning.problem import Instance, Placement

_ROUNDS = 12


def packed(instance: Instance, low: float, high: float) -> Placement | None:
    """The tightest filling that bisection between two times finds; None if not even the later one can be kept.

    The dual approximation of Hochbaum and Shmoys (1987), with splitting.
    """
    best = fill(instance, high)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        found = fill(instance, middle)
        if found is None:
            low = middle
        else:
            best, high = found, min(middle, instance.makespan(found))
    return best


def fill(instance: Instance, seconds: float) -> Placement | None:
    """A placement that ends by then, or None. Greatest remainder first, whole into the tightest room that takes it
    at the least load; else as much as goes into the widest."""
    placement: Placement = [{} for _ in instance.workers]
    room = [seconds] * len(placement)
    waiting = [(-instance.size(expert), expert, instance.counts[expert]) for expert in instance.experts]
    heapq.heapify(waiting)
    while waiting:
        _, expert, count = heapq.heappop(waiting)
        request = instance.request[expert]
        open_to = [
            (instance.added(worker, placement[worker], expert), worker)
            for worker in instance.workers
            if instance.fits[expert][worker] and expert not in placement[worker]
        ]
        whole = [(load, room[w] - load - count * request, w) for load, w in open_to]
        whole = [entry for entry in whole if entry[1] >= -1e-9]
        if whole:
            load, _, worker = min(whole)
            taken = count
        else:
            widest = max(open_to, key=lambda entry: room[entry[1]] - entry[0], default=None)
            if widest is None:
                return None
            load, worker = widest
            taken = min(math.floor((room[worker] - load + 1e-9) / request), count) if request else count
            if taken < 1:
                return None
        placement[worker][expert] = taken
        room[worker] -= load + taken * request
        if taken < count:
            rest = count - taken
            heapq.heappush(waiting, (-(instance.size(expert) - taken * request), expert, rest))
    return placement
