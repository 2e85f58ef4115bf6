"""Placements by simple rules, by packing, and by a local search that redivides the experts of two workers at a time."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from symmoe.planning.problem import Instance, Pieces, Placement

_ROUNDS = 12
_FREE = 9
_NEVER = 1e12
"""Seconds of a load that cannot be: the expert does not fit."""
_Bits = NDArray[np.bool_]
_Seconds = NDArray[np.float64]
_Option = tuple[tuple[float, float], int, int, int]
_NEAR = 1e-3
_SHAKEN = 3


def round_robin(instance: Instance) -> Placement:
    """Experts dealt to the workers in turn, as MOSAIC's baseline does (arXiv 2606.03014)."""
    placement: Placement = [{} for _ in instance.workers]
    following = 0
    for expert in instance.experts:
        while not instance.fits[expert][following % len(placement)]:
            following += 1
        placement[following % len(placement)][expert] = instance.counts[expert]
        following += 1
    return placement


def longest_first(instance: Instance) -> Placement:
    """The longest expert first, each on the worker that would finish it soonest, loads included (LPT; Graham 1969)."""
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


def packed(instance: Instance, low: float, high: float) -> Placement | None:
    """The filling with the earliest end that bisection between two times finds; None if `high` is too early.

    The dual approximation of Hochbaum and Shmoys (1987), with splitting.
    """
    best = fill(instance, high)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        placement = fill(instance, middle)
        if placement is None:
            low = middle
        else:
            best, high = placement, min(middle, instance.makespan(placement))
    return best


def fill(instance: Instance, seconds: float) -> Placement | None:
    """A placement in which every worker ends within `seconds`, or None.

    Takes the greatest remainder first. It goes whole to the worker with the cheapest load and, among those, the least
    room that holds it; otherwise as much as fits goes to the worker with the most room.
    """
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


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two workers, and which of their experts may change sides; the rest stay where they are."""

    instance: Instance
    workers: tuple[int, int]
    fixed: tuple[Pieces, Pieces]
    free: list[tuple[int, int]]

    def side(self, which: int, inside: _Bits, counted: _Bits) -> _Seconds:
        """Seconds of one side for each column of `inside`, the free experts there; `counted` are those with work."""
        instance, worker = self.instance, self.workers[which]
        held = Counter(instance.model[e] for e in self.fixed[which])
        members: dict[int, list[int]] = {}
        loads = np.zeros(len(self.free))
        for row, (expert, _) in enumerate(self.free):
            loads[row] = 0.0 if instance.resident[worker] == expert else instance.swap[expert]
            if not instance.fits[expert][worker]:
                loads[row] = _NEVER
            if instance.model[expert] not in instance.alive[worker]:
                members.setdefault(instance.model[expert], []).append(row)
        shared = [rows for model, rows in members.items() if len(rows) > 1 or held[model]]
        for rows in members.values():
            if rows not in shared:
                loads[rows] += instance.first[self.free[rows[0]][0]]
        total = instance.seconds(worker, self.fixed[which]) + loads @ inside + self._work() @ counted
        for rows in shared:
            total += self._starts(which, inside, rows)
        return total

    def _work(self) -> _Seconds:
        return np.array([count * self.instance.request[expert] for expert, count in self.free])

    def _starts(self, which: int, inside: _Bits, rows: list[int]) -> _Seconds:
        """What the first loads of one model add above those that the fixed experts pay already."""
        instance, model = self.instance, self.instance.model[self.free[rows[0]][0]]
        before = min((instance.first[e] for e in self.fixed[which] if instance.model[e] == model), default=np.inf)
        least = np.full(inside.shape[1], before)
        for row in rows:
            least = np.where(inside[row], np.minimum(least, instance.first[self.free[row][0]]), least)
        return np.where(np.isinf(least), 0.0, least) - (0.0 if np.isinf(before) else before)


def divided(
    instance: Instance, placement: Placement, pair: tuple[int, int], rng: np.random.Generator
) -> tuple[Pieces, Pieces]:
    """The best division of two workers' pieces between them, with at most one expert newly split.

    Up to nine experts change sides freely; of more, the rest stay.
    """
    one, other = (placement[worker] for worker in pair)
    everything = sorted({*one, *other})
    chosen = everything
    if len(everything) > _FREE:
        shared = [e for e in everything if e in one and e in other][:_FREE]
        rest = [e for e in everything if e not in shared]
        chosen = [*shared, *rng.permutation(rest)[: _FREE - len(shared)].tolist()]
    free = [(e, one.get(e, 0) + other.get(e, 0)) for e in chosen]
    fixed = tuple({e: c for e, c in side.items() if e not in chosen} for side in (one, other))
    problem = _Pair(instance, pair, (fixed[0], fixed[1]), free)
    options = [_whole(problem), *(_split(problem, row) for row, (_, count) in enumerate(free) if count > 1)]
    _, bits, row, taken = min(options, key=lambda option: option[0])
    sides: tuple[Pieces, Pieces] = (dict(fixed[0]), dict(fixed[1]))
    for place, (expert, count) in enumerate(free):
        first = taken if place == row else (count if bits >> place & 1 else 0)
        for side, part in zip(sides, (first, count - first), strict=True):
            if part:
                side[expert] = part
    return sides


@cache
def _bits(size: int) -> _Bits:
    return (np.arange(1 << size)[None, :] >> np.arange(size)[:, None] & 1).astype(bool)


def _whole(pair: _Pair) -> _Option:
    """Every free expert whole on one side."""
    bits = _bits(len(pair.free))
    best, place = _least(pair.side(0, bits, bits), pair.side(1, ~bits, ~bits))
    return best, place, -1, 0


def _split(pair: _Pair, row: int) -> _Option:
    """One expert on both sides, its requests divided so that the sides end together; the others whole."""
    expert, count = pair.free[row]
    request = pair.instance.request[expert]
    bits = _bits(len(pair.free))
    columns = np.flatnonzero(bits[row])
    inside = bits[:, columns]
    outside = ~inside
    outside[row] = True
    worked_in, worked_out = inside.copy(), outside.copy()
    worked_in[row] = worked_out[row] = False
    one, other = pair.side(0, inside, worked_in), pair.side(1, outside, worked_out)
    level = (other + count * request - one) / (2 * max(request, 1e-12))
    options: list[_Option] = []
    for rounding in (np.floor, np.ceil):
        taken = np.clip(rounding(level), 1, count - 1)
        best, place = _least(one + taken * request, other + (count - taken) * request)
        options.append((best, int(columns[place]), row, int(taken[place])))
    return min(options, key=lambda option: option[0])


def _least(one: _Seconds, other: _Seconds) -> tuple[tuple[float, float], int]:
    """The column that ends soonest, among equals the one of less seconds in all."""
    ends, sums = np.maximum(one, other), one + other
    place = int(np.argmin(ends + 1e-9 * sums))
    return (float(ends[place]), float(sums[place])), place


def improved(instance: Instance, placement: Placement, bound: float, tries: int, seed: int = 0) -> Placement:
    """A placement that ends no later than the given one. Stops near `bound`, or after `tries` divisions of a pair.

    Iterated local search: the worker that ends last is paired with each other, soonest end first, until redividing
    their pieces makes them end sooner. Where no pair improves, the pieces of three workers are dealt at random and the
    search goes on from there.
    """
    descent = _Descent(instance, placement, tries, np.random.default_rng(seed))
    descent.run(bound)
    best, end = descent.copy(), descent.end
    while descent.left > 0 and end > bound * (1 + _NEAR) and len(placement) > 1:
        descent.shake()
        descent.run(bound)
        if descent.end < end:
            best, end = descent.copy(), descent.end
        else:
            descent.restore(best)
    return best


class _Descent:
    """A placement on its way down, with the seconds of its workers and the divisions left to try."""

    def __init__(self, instance: Instance, placement: Placement, tries: int, rng: np.random.Generator) -> None:
        self.instance, self.left, self._rng = instance, tries, rng
        self.restore(placement)

    @property
    def end(self) -> float:
        """The makespan."""
        return max(self._seconds)

    def copy(self) -> Placement:
        """The placement as it is now."""
        return [dict(pieces) for pieces in self._placement]

    def restore(self, placement: Placement) -> None:
        """Go on from another placement."""
        self._placement = [dict(pieces) for pieces in placement]
        self._seconds = self.instance.all_seconds(self._placement)

    def run(self, bound: float) -> None:
        """Descend until no pair ends sooner."""
        while self.left > 0 and self.end > bound * (1 + _NEAR) and self._step():
            pass

    def shake(self) -> None:
        """Deal the pieces of the last worker to end and of others anew, each whole, greatest first but for noise."""
        last = int(np.argmax(self._seconds))
        others = [worker for worker in self.instance.workers if worker != last]
        workers = [last, *self._rng.permutation(others)[: _SHAKEN - 1].tolist()]
        counts: dict[int, int] = {}
        for worker in workers:
            for expert, count in self._placement[worker].items():
                counts[expert] = counts.get(expert, 0) + count
            self._placement[worker], self._seconds[worker] = {}, 0.0
        noise = self._rng.uniform(0.7, 1.3, len(self.instance.names))
        for expert in sorted(counts, key=lambda e: -noise[e] * counts[e] * self.instance.request[e]):
            soonest = min((w for w in workers if self.instance.fits[expert][w]), key=lambda w: self._seconds[w])
            self._placement[soonest][expert] = counts[expert]
            self._seconds[soonest] = self.instance.seconds(soonest, self._placement[soonest])

    def _step(self) -> bool:
        last = int(np.argmax(self._seconds))
        for worker in np.argsort(self._seconds, kind="stable").tolist():
            if worker == last:
                continue
            self.left -= 1
            sides = divided(self.instance, self._placement, (last, worker), self._rng)
            ends = [self.instance.seconds(w, side) for w, side in zip((last, worker), sides, strict=True)]
            if max(ends) < self._seconds[last] - 1e-9:
                self._placement[last], self._placement[worker] = sides
                self._seconds[last], self._seconds[worker] = ends
                return True
        return False
