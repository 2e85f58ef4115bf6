"""Aligns loads of one model on several machines to begin at the same moment, so that they share one reading of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from symmoe.planning.problem import Instance, Placement, Problem
from symmoe.types import Joint, Rates

LEAST_PATIENCE = 3.0
"""Seconds that whoever is there waits for the others, where little or nothing is known of what that saves."""
_GRAIN = 1e-9


@dataclass(frozen=True, slots=True)
class JointLoad:
    """Workers that begin to load one model at the same moment.

    `places` maps each worker to the index of its share that begins then, `begin` is that second, `waited` the seconds
    that the workers wait for each other in all, and `saved` the seconds by which each load is shorter.
    """

    model: str
    places: Mapping[int, int]
    begin: float
    waited: float
    saved: float
    rates: Rates | None = None

    def joint(self, number: int) -> Joint:
        """What a step of this load is told: to wait for the others at most `saved` or `LEAST_PATIENCE` seconds."""
        return Joint(number, len(self.places), max(self.saved, LEAST_PATIENCE), self.rates)


@dataclass(frozen=True, slots=True)
class _Block:
    """One worker's experts of one model, which stand together, and the seconds that they take there."""

    experts: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Group:
    """The workers that load a model together."""

    model: int
    workers: tuple[int, ...]
    saved: float


@dataclass(slots=True)
class _Played:
    """In which order each worker runs its models, when it is done, and of the groups when each began and waited."""

    orders: list[list[int]]
    ends: list[float]
    begins: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    arrivals: dict[int, float] = field(default_factory=dict)
    """When each worker of the last group was there, had it run nothing while it waits."""

    def no_worse(self, other: _Played) -> bool:
        """Whether the last worker is done sooner, or as soon with no more work in all."""
        makespan, before = max(self.ends), max(other.ends)
        slack = _GRAIN * max(before, 1.0)
        return makespan < before - slack or (
            makespan <= before + slack and sum(self.ends) <= sum(other.ends) + slack * len(self.ends)
        )


def aligned(
    problem: Problem, instance: Instance, placement: Placement, orders: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[float], tuple[JointLoad, ...]]:
    """Each worker's experts in an order in which machines load models together where that pays; ends and joint loads.

    A model that several machines must load cold moves to the front on each of them, greatest gain first and everywhere
    in the same order, so that no cycle of waiting arises; the gaps before it are filled with models that fit. A group
    that makes the schedule longer, or as long but with more work in all, loses the workers that come last, and is
    finally dropped: so the schedule never becomes longer. Seconds are those of `Instance`.
    """
    blocks = [_blocks(instance, worker, placement[worker], order) for worker, order in enumerate(orders)]
    plain = _play(instance, blocks, ())
    best, chosen = plain, list[_Group]()
    for group in _candidates(problem, instance, blocks):
        trial: _Group | None = group
        while trial is not None:
            played = _play(instance, blocks, (*chosen, trial))
            if played.no_worse(best):
                best = played
                chosen.append(trial)
                break
            trial = _without_the_last(problem, instance, blocks, trial, played.arrivals)
    if not chosen:
        return [list(order) for order in orders], plain.ends, ()
    names = {place: problem.models[name] for name, place in zip(instance.names, instance.model, strict=True)}
    found = []
    for group, begin, waited in zip(chosen, best.begins, best.waits, strict=True):
        places = {worker: _place(blocks[worker], best.orders[worker], group.model) for worker in group.workers}
        rates = problem.costs[instance.names[blocks[group.workers[0]][group.model].experts[0]]].rates
        found.append(JointLoad(names[group.model], places, begin, waited, group.saved, rates))
    ordered = [
        [e for model in order for e in blocks[worker][model].experts] for worker, order in enumerate(best.orders)
    ]
    return ordered, best.ends, tuple(found)


def _blocks(instance: Instance, worker: int, pieces: Mapping[int, int], order: Sequence[int]) -> dict[int, _Block]:
    """By model, in their order."""
    experts: dict[int, list[int]] = {}
    for expert in order:
        experts.setdefault(instance.model[expert], []).append(expert)
    return {
        model: _Block(tuple(each), instance.seconds(worker, {expert: pieces[expert] for expert in each}))
        for model, each in experts.items()
    }


def _candidates(problem: Problem, instance: Instance, blocks: Sequence[Mapping[int, _Block]]) -> list[_Group]:
    """Models that workers of several machines must load cold, greatest gain first."""
    cold: dict[int, list[int]] = {}
    for worker, worker_blocks in enumerate(blocks):
        for model in worker_blocks:
            if model not in instance.alive[worker]:
                cold.setdefault(model, []).append(worker)
    groups = [_group(problem, instance, blocks, model, workers) for model, workers in cold.items()]
    return sorted((g for g in groups if g is not None), key=lambda g: (-g.saved * len(g.workers), g.model))


def _group(
    problem: Problem, instance: Instance, blocks: Sequence[Mapping[int, _Block]], model: int, workers: Sequence[int]
) -> _Group | None:
    """A group, if it is of several machines. It saves each as much as it saves the one that it saves least."""
    machines = len({problem.workers[worker].machine for worker in workers})
    if machines < 2:
        return None
    firsts = {blocks[worker][model].experts[0] for worker in workers}
    saved = min(
        min(problem.costs[instance.names[e]].saved(machines), instance.swap[e] + instance.first[e]) for e in firsts
    )
    return _Group(model, tuple(workers), saved)


def _without_the_last(
    problem: Problem,
    instance: Instance,
    blocks: Sequence[Mapping[int, _Block]],
    group: _Group,
    arrivals: Mapping[int, float],
) -> _Group | None:
    """The half of a group that is there first."""
    first = sorted(group.workers, key=lambda worker: (arrivals[worker], worker))[: (len(group.workers) + 1) // 2]
    if len(first) == len(group.workers):
        return None
    return _group(problem, instance, blocks, group.model, sorted(first))


def _play(instance: Instance, blocks: Sequence[Mapping[int, _Block]], groups: Sequence[_Group]) -> _Played:
    """Every worker runs what is alive there, then its groups, gaps filled with the longest that fits, then the rest."""
    joint = [{group.model for group in groups if worker in group.workers} for worker in range(len(blocks))]
    alive = [[model for model in worker_blocks if model in instance.alive[w]] for w, worker_blocks in enumerate(blocks)]
    left = [
        [model for model in worker_blocks if model not in joint[w] and model not in instance.alive[w]]
        for w, worker_blocks in enumerate(blocks)
    ]
    played = _Played(alive, [sum(worker_blocks[m].seconds for m in alive[w]) for w, worker_blocks in enumerate(blocks)])
    ends = played.ends

    def run(worker: int, model: int, saved: float = 0.0) -> None:
        played.orders[worker].append(model)
        ends[worker] += blocks[worker][model].seconds - saved

    for group in groups:
        played.arrivals = {worker: ends[worker] for worker in group.workers}
        begin = max(played.arrivals.values())
        waited = 0.0
        for worker in group.workers:
            for model in sorted(left[worker], key=lambda m: -blocks[worker][m].seconds):
                if ends[worker] + blocks[worker][model].seconds <= begin:
                    left[worker].remove(model)
                    run(worker, model)
            waited += begin - ends[worker]
            ends[worker] = begin
            run(worker, group.model, group.saved)
        played.begins.append(begin)
        played.waits.append(waited)
    for worker, models in enumerate(left):
        for model in models:
            run(worker, model)
    return played


def _place(blocks: Mapping[int, _Block], order: Sequence[int], model: int) -> int:
    """Where a model's first expert stands among a worker's experts."""
    return sum(len(blocks[each].experts) for each in order[: order.index(model)])
