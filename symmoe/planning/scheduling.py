"""Which worker runs what, in which order: the shortest schedule that is found, and how short any could be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symmoe.planning.affinity import gathered
from symmoe.planning.baselines import longest_first, round_robin
from symmoe.planning.bound import lower_bound
from symmoe.planning.ordering import ordered
from symmoe.planning.packing import packed
from symmoe.planning.problem import Instance, Placement, Problem
from symmoe.planning.program import solve
from symmoe.planning.search import improved

PROGRAM_SECONDS = 0.5
"""How long the integer program may take where it is asked."""
_PROGRAM_CELLS = 192
_TRIES = 600
_NEAR = 1e-3
_SOFT = 0.01


@dataclass(frozen=True, slots=True)
class Share:
    """Some requests of one expert, run together on one worker."""

    expert: str
    requests: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What each worker runs, in order, and when it is predicted to be done, in seconds.

    `bound` is a time before which no schedule could end; `optimal` says that the integer program proved that none is
    shorter, and `method` which of the two ways found this one.
    """

    shares: tuple[tuple[Share, ...], ...]
    seconds: tuple[float, ...]
    bound: float
    method: Literal["search", "program"]
    optimal: bool

    @property
    def makespan(self) -> float:
        """Predicted seconds until the last worker is done."""
        return max(self.seconds, default=0.0)


def schedule(problem: Problem, program_seconds: float = PROGRAM_SECONDS) -> Schedule:
    """Place, split and order experts so that the last worker is done as soon as possible.

    Local search from the tightest packing and from longest-first; then, where the problem is small and what could be
    gained still is more than 0.1 % and more than `program_seconds` (0: never), the integer program for about that long.
    The better of both is taken, which is never longer than longest-first or round robin. Wishes for experts to be
    together are met as far as they make the schedule at most 1 % longer.
    """
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


def _searched(instance: Instance, bound: float, simple: Placement) -> Placement:
    ends = instance.makespan(simple)
    tight = packed(instance, bound, ends)
    starts = [simple] if tight is None else [tight, simple]
    best = simple
    for start in starts:
        found = improved(instance, start, bound, _TRIES // len(starts))
        best = min(best, found, key=instance.makespan)
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
    """A placement with the order of each worker's shares."""
    shares = tuple(
        tuple(Share(instance.names[e], pieces[e]) for e in ordered(instance, worker, pieces))
        for worker, pieces in enumerate(placement)
    )
    return Schedule(shares, tuple(instance.all_seconds(placement)), bound, method, optimal)
