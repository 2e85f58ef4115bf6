"""Local search: what two workers do is divided anew between them, the best way there is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from symmoe.planning.problem import Instance, Pieces, Placement

_FREE = 9
_NEVER = 1e12
"""Seconds of a load that cannot be: the expert does not fit."""
_Bits = NDArray[np.bool_]
_Seconds = NDArray[np.float64]


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
            if instance.running[worker] != instance.model[expert]:
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


_Option = tuple[tuple[float, float], int, int, int]


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
