"""The simple ways to place experts, each whole on one worker: what ours is compared with and starts from."""

from __future__ import annotations

from symmoe.planning.problem import Instance, Placement


def round_robin(instance: Instance) -> Placement:
    """Experts dealt to the workers in their order, as MOSAIC's baseline does (arXiv 2606.03014)."""
    placement: Placement = [{} for _ in instance.workers]
    following = 0
    for expert in instance.experts:
        while not instance.fits[expert][following % len(placement)]:
            following += 1
        placement[following % len(placement)][expert] = instance.counts[expert]
        following += 1
    return placement


def longest_first(instance: Instance) -> Placement:
    """The longest expert first, each on the worker that is done with it soonest (LPT; Graham 1969), loads included."""
    placement: Placement = [{} for _ in instance.workers]
    ends = [0.0] * len(placement)
    for expert in instance.by_size():
        work = instance.counts[expert] * instance.request[expert]
        finish = {
            worker: ends[worker] + instance.added(worker, placement[worker], expert) + work
            for worker in instance.workers
            if instance.fits[expert][worker]
        }
        soonest = min(finish, key=lambda worker: finish[worker])
        placement[soonest][expert] = instance.counts[expert]
        ends[soonest] = finish[soonest]
    return placement
