"""Scheduling: which worker runs what and in which order, aiming at the shortest makespan, with a lower bound on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from symmoe.planning.alignment import JointLoad, aligned
from symmoe.planning.costs import ExpertCost
from symmoe.planning.problem import Instance, Pieces, Placement, Problem, lower_bound
from symmoe.planning.program import solve
from symmoe.planning.search import improved, longest_first, packed, round_robin
from symmoe.types import Recruitment

_MOVES = 200
_Matrix = NDArray[np.float64]
PROGRAM_SECONDS = 0.5
"""How long the integer program may take where it is asked."""
_PROGRAM_CELLS = 192
_TRIES = 600
_NEAR = 1e-3
_SOFT = 0.01


def asked_together(recruitments: Sequence[Recruitment], aggregator: str | None = None) -> dict[tuple[str, str], float]:
    """For each pair of experts, how many questions ask both. An aggregator takes part in every question."""
    pairs: Counter[tuple[str, str]] = Counter()
    for recruitment in recruitments:
        experts = {assignment.expert for assignment in recruitment.assignments}
        pairs.update(combinations(sorted(experts | {aggregator} if aggregator else experts), 2))
    return {pair: float(count) for pair, count in pairs.items()}


def gathered(problem: Problem, instance: Instance, placement: Placement, latest: float) -> Placement:
    """The placement with whole pieces moved or exchanged to bring experts together, no worker ending after `latest`.

    Steepest ascent on the number of pairs that share a worker: ExFlow's affinity (arXiv 2401.08383), for whole experts.
    """
    wanted = _wanted(problem, instance)
    if not wanted.any() or len(placement) < 2:
        return placement
    placement = [dict(pieces) for pieces in placement]
    for _ in range(_MOVES):
        if not _one_gain(instance, placement, wanted, latest):
            break
    return placement


def _wanted(problem: Problem, instance: Instance) -> _Matrix:
    places = {name: place for place, name in enumerate(instance.names)}
    wanted = np.zeros((len(places), len(places)))
    for (one, other), count in problem.together.items():
        if one in places and other in places and one != other:
            wanted[places[one], places[other]] += count
            wanted[places[other], places[one]] += count
    return wanted


def _one_gain(instance: Instance, placement: Placement, wanted: _Matrix, latest: float) -> bool:
    """Make the move or exchange that gains most of those that end in time; False if none gains."""
    present = np.zeros((len(instance.names), len(placement)))
    for worker, placed in enumerate(placement):
        present[list(placed), worker] = 1.0
    near = wanted @ present
    pieces = [(e, w) for w, placed in enumerate(placement) for e in placed]
    experts, workers = (np.array(column) for column in zip(*pieces, strict=True))
    current = near[experts, workers]
    moving = near[experts, :] - current[:, None]
    crossed = near[experts, :][:, workers] - current[:, None]
    exchanging = crossed + crossed.T - 2 * wanted[np.ix_(experts, experts)]
    options = [(-float(moving[p, w]), int(p), int(w), -1) for p, w in np.argwhere(moving > 1e-9)]
    options += [(-float(exchanging[p, q]), int(p), -1, int(q)) for p, q in np.argwhere(exchanging > 1e-9) if p < q]
    for _, place, to, other in sorted(options):
        expert, worker = pieces[place]
        partner, target = (None, to) if other < 0 else pieces[other]
        if target != worker and _exchanged(instance, placement, (worker, expert), (target, partner), latest):
            return True
    return False


def _exchanged(
    instance: Instance, placement: Placement, one: tuple[int, int], other: tuple[int, int | None], latest: float
) -> bool:
    """Do it if both workers can take what they are given and end in time."""
    (first_worker, leaving), (second_worker, coming) = one, other
    first, second = dict(placement[first_worker]), dict(placement[second_worker])
    count = first.pop(leaving)
    if coming is not None:
        if coming in first or not instance.fits[coming][first_worker]:
            return False
        first[coming] = second.pop(coming)
    if leaving in second or not instance.fits[leaving][second_worker]:
        return False
    second[leaving] = count
    if max(instance.seconds(first_worker, first), instance.seconds(second_worker, second)) > latest:
        return False
    placement[first_worker], placement[second_worker] = first, second
    return True


def ordered(instance: Instance, worker: int, pieces: Pieces) -> list[int]:
    """A worker's experts in the order that loads least; among equals, longest first.

    What is ready goes first, with the others of its model; then models that sleep there, before their memory is needed;
    then model by model, each beginning with the expert whose first load costs least above a swap. The shortest stand
    last: a worker that takes over work from another then finds pieces that are not loaded yet, and the imbalance left
    is small.
    """
    lasting = {e: instance.swap[e] + count * instance.request[e] for e, count in pieces.items()}
    models: dict[int, list[int]] = {}
    for expert in pieces:
        models.setdefault(instance.model[expert], []).append(expert)

    def model_key(model: int) -> tuple[bool, bool, float, int]:
        alive = model in instance.alive[worker]
        return instance.running[worker] != model, not alive, -sum(lasting[e] for e in models[model]), model

    order: list[int] = []
    for model in sorted(models, key=model_key):
        longest = sorted(models[model], key=lambda e: (-lasting[e], e))
        if model in instance.alive[worker]:
            begins = [e for e in longest if e == instance.resident[worker]]
        else:
            begins = [min(longest, key=lambda e: instance.first[e])]
        order += [*begins, *(e for e in longest if e not in begins)]
    return order


@dataclass(frozen=True, slots=True)
class Share:
    """A number of requests of one expert, run together on one worker."""

    expert: str
    requests: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What each worker runs, in order, and when it is predicted to be done, in seconds.

    `bound` is a lower bound in seconds on the end of any schedule; `optimal` says that the integer program proved this
    one shortest, and `method` which method found it. `joint` are the loads that begin together, in the order in which
    every worker comes to its own.
    """

    shares: tuple[tuple[Share, ...], ...]
    seconds: tuple[float, ...]
    bound: float
    method: Literal["search", "program"]
    optimal: bool
    joint: tuple[JointLoad, ...] = ()

    @property
    def joint_at(self) -> dict[tuple[int, int], int]:
        """The index in `joint` for each share that belongs to one, by worker and place."""
        return {each: number for number, load in enumerate(self.joint) for each in load.places.items()}

    @property
    def makespan(self) -> float:
        """Predicted seconds until the last worker is done."""
        return max(self.seconds, default=0.0)


def schedule(problem: Problem, program_seconds: float = PROGRAM_SECONDS) -> Schedule:
    """Place, split and order experts so that the last worker is done as soon as possible.

    Local search starts from the tightest packing and from longest-first. Where the problem is small and the possible
    gain is more than 0.1 % and more than `program_seconds` (0: never), the integer program then runs for about that
    long. The better of both is taken, which is never longer than longest-first or round robin. Experts are brought
    together as far as that makes the schedule at most 1 % longer. Machines that must load the same model do so together
    where that pays, which may end sooner than separate loads ever could.
    """
    found = _placed(problem, program_seconds)
    machines = len({worker.machine for worker in problem.workers})
    if machines < 2:
        return found
    found = _aligned(problem, found)
    if not any(load.saved for load in found.joint):
        return found
    least = lower_bound(Instance(_at_best(problem, machines)))
    return replace(found, bound=min(found.bound, least), optimal=False)


def _placed(problem: Problem, program_seconds: float) -> Schedule:
    """The schedule where every worker loads for itself."""
    instance = Instance(problem)
    bound = lower_bound(instance)
    simple = min((longest_first(instance), round_robin(instance)), key=instance.makespan)
    best = _searched(instance, bound, simple)
    method: Literal["search", "program"] = "search"
    optimal = False
    if _worth_a_program(instance, best, bound, program_seconds):
        solved = solve(instance, instance.makespan(best), program_seconds)
        if solved.placement is not None and instance.makespan(solved.placement) < instance.makespan(best) - 1e-9:
            best, method = solved.placement, "program"
        optimal = solved.proved
        bound = max(bound, min(solved.bound, instance.makespan(best)))
    latest = min(instance.makespan(best) * (1 + _SOFT), max(instance.makespan(simple), instance.makespan(best)))
    gathering = gathered(problem, instance, best, latest)
    return as_schedule(instance, gathering, bound, method, optimal and gathering == best)


def _aligned(problem: Problem, found: Schedule) -> Schedule:
    """The schedule with loads together where that pays."""
    instance = Instance(problem)
    places = {name: place for place, name in enumerate(instance.names)}
    orders = [[places[share.expert] for share in shares] for shares in found.shares]
    placement = [{places[share.expert]: share.requests for share in shares} for shares in found.shares]
    orders, ends, joint = aligned(problem, instance, placement, orders)
    shares = tuple(
        tuple(Share(instance.names[e], placement[worker][e]) for e in order) for worker, order in enumerate(orders)
    )
    return replace(found, shares=shares, seconds=tuple(ends), joint=joint)


def _at_best(problem: Problem, machines: int) -> Problem:
    """The problem if every cold load were as short as it is for the best number of machines together."""

    def least(cost: ExpertCost) -> ExpertCost:
        load = cost.load - max(cost.saved(count) for count in range(2, machines + 1))
        return replace(cost, load=load, swap=min(cost.same_model, load))

    return replace(problem, costs={name: least(cost) for name, cost in problem.costs.items()})


def _searched(instance: Instance, bound: float, simple: Placement) -> Placement:
    ends = instance.makespan(simple)
    tight = packed(instance, bound, ends)
    starts = [simple] if tight is None else [tight, simple]
    best = simple
    for start in starts:
        placement = improved(instance, start, bound, _TRIES // len(starts))
        best = min(best, placement, key=instance.makespan)
    return best


def _worth_a_program(instance: Instance, best: Placement, bound: float, seconds: float) -> bool:
    """Small enough to be solved, and more to be gained than the solving takes."""
    cells = len(instance.names) * len(instance.workers)
    return 0 < cells <= _PROGRAM_CELLS and seconds > 0 and instance.makespan(best) - bound > max(seconds, _NEAR * bound)


def as_schedule(
    instance: Instance,
    placement: Placement,
    bound: float = 0.0,
    method: Literal["search", "program"] = "search",
    optimal: bool = False,
) -> Schedule:
    """A placement as a schedule, with each worker's shares in order."""
    shares = tuple(
        tuple(Share(instance.names[e], pieces[e]) for e in ordered(instance, worker, pieces))
        for worker, pieces in enumerate(placement)
    )
    return Schedule(shares, tuple(instance.all_seconds(placement)), bound, method, optimal)
