"""Placement as an integer program, solved by HiGHS."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from symmoe.planning.problem import Instance, Placement, loads_needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GAP = 1e-4


@dataclass(frozen=True, slots=True)
class Solved:
    """The solver's result: a placement if it found one, the bound it proved, and whether the two meet."""

    placement: Placement | None
    bound: float
    proved: bool


def solve(instance: Instance, known: float, time_limit: float, split: bool = True) -> Solved:
    """Minimise the makespan below `known`, that of a placement at hand.

    MOSAIC's program (arXiv 2606.03014) with its variables Y (expert e is loaded on worker n) and X (how many requests
    it answers there), and F (e is the first of its model there, which costs a start); without its limit on replicas,
    which the objective makes unnecessary. With `split` off each expert stays whole, as in a plain assignment. HiGHS
    checks its clock rarely, and may take a second longer than `time_limit`.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows = _Rows(instance, known)
    rows.assign(split)
    rows.starts()
    rows.ends()
    matrix, low, high = rows.matrix()
    upper = rows.upper()
    with _silent():
        solution = milp(
            rows.objective(),
            constraints=LinearConstraint(matrix, low, high),
            bounds=Bounds(np.zeros_like(upper), upper),
            integrality=rows.integrality(split),
            options={"time_limit": time_limit, "mip_rel_gap": _GAP},
        )
    bound = float(solution.mip_dual_bound) if solution.mip_dual_bound is not None else 0.0
    if solution.status == 2:  # nothing is shorter than what is known
        return Solved(None, known, proved=True)
    placement = rows.placement(solution.x) if solution.x is not None else None
    return Solved(placement, max(bound, 0.0), proved=solution.status == 0)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep stdout clean: HiGHS prints some notes of its own whatever it is told."""
    sys.stdout.flush()
    saved = os.dup(1)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


class _Rows:
    """The program's constraints. Variables: X, Y and F of every expert on every worker, then the makespan."""

    def __init__(self, instance: Instance, known: float) -> None:
        self.instance, self.known = instance, known
        self.shape = (len(instance.names), len(instance.workers))
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def assign(self, split: bool) -> None:
        """Every request runs, only where its expert is loaded, and on as many workers as the known makespan asks."""
        instance = self.instance
        for expert in instance.experts:
            count = instance.counts[expert]
            self._add([(self._x(expert, w), 1.0) for w in instance.workers], count, count)
            for worker in instance.workers:
                most = float(min(count, self._room(expert, worker)) if split else count)
                tie = [(self._x(expert, worker), 1.0), (self._y(expert, worker), -most)]
                self._add(tie, -np.inf if split else 0.0, 0.0)
                used = [(self._x(expert, worker), 1.0), (self._y(expert, worker), -1.0)]
                self._add(used, 0.0, np.inf)  # else a dear first load is saved by loading an idle mate before it
            needed = 1 if expert in instance.resident else loads_needed(instance, expert, self.known) or 1
            loaded = [(self._y(expert, w), 1.0) for w in instance.workers]
            self._add(loaded, needed if split else 1, np.inf if split else 1)

    def starts(self) -> None:
        """Where any expert of a model is loaded, one of them is the first."""
        instance = self.instance
        for worker in instance.workers:
            for expert in instance.experts:
                mates = [e for e in instance.experts if instance.model[e] == instance.model[expert]]
                firsts = [(self._f(mate, worker), 1.0) for mate in mates]
                self._add([*firsts, (self._y(expert, worker), -1.0)], 0.0, np.inf)
                self._add([(self._f(expert, worker), 1.0), (self._y(expert, worker), -1.0)], -np.inf, 0.0)

    def ends(self) -> None:
        """No worker ends after the makespan."""
        instance = self.instance
        for worker in instance.workers:
            terms = [(self.size - 1, -1.0)]
            for expert in instance.experts:
                running = instance.model[expert] in instance.alive[worker]
                terms.append((self._x(expert, worker), instance.request[expert]))
                resident = instance.resident[worker] == expert
                terms.append((self._y(expert, worker), 0.0 if resident else instance.swap[expert]))
                terms.append((self._f(expert, worker), 0.0 if running else instance.first[expert]))
            self._add(terms, -np.inf, 0.0)

    @property
    def size(self) -> int:
        """How many variables there are."""
        return 3 * self.shape[0] * self.shape[1] + 1

    def matrix(self) -> tuple[Any, list[float], list[float]]:
        """The constraints as a sparse matrix with the bounds of its rows."""
        from scipy.sparse import coo_array

        rows, columns, values = zip(*self._entries, strict=True)
        return coo_array((values, (rows, columns)), shape=(len(self._low), self.size)).tocsr(), self._low, self._high

    def upper(self) -> NDArray[np.float64]:
        """The greatest value of each variable; a worker that an expert does not fit into gets none of it."""
        fits = np.array(self.instance.fits, dtype=np.float64)
        counts = np.array(self.instance.counts, dtype=np.float64)[:, None]
        return np.concatenate([(fits * counts).ravel(), fits.ravel(), fits.ravel(), [self.known]])

    def objective(self) -> NDArray[np.float64]:
        """The makespan."""
        objective = np.zeros(self.size)
        objective[-1] = 1.0
        return objective

    def integrality(self, split: bool) -> NDArray[np.int64]:
        """All are whole numbers but the makespan, and F, which is whole by itself."""
        cells = self.shape[0] * self.shape[1]
        return np.repeat([1 if split else 0, 1, 0, 0], [cells, cells, cells, 1])

    def placement(self, values: NDArray[np.float64]) -> Placement:
        """The placement that a solution stands for."""
        taken = np.rint(values[: self.shape[0] * self.shape[1]]).astype(int).reshape(self.shape)
        return [{e: int(taken[e, w]) for e in self.instance.experts if taken[e, w]} for w in self.instance.workers]

    def _room(self, expert: int, worker: int) -> int:
        free = self.known - self.instance.least_load(expert, worker)
        return max(int(free / self.instance.request[expert] + 1e-9), 0) if self.instance.request[expert] else 1 << 30

    def _x(self, expert: int, worker: int) -> int:
        return expert * self.shape[1] + worker

    def _y(self, expert: int, worker: int) -> int:
        return self.shape[0] * self.shape[1] + self._x(expert, worker)

    def _f(self, expert: int, worker: int) -> int:
        return 2 * self.shape[0] * self.shape[1] + self._x(expert, worker)

    def _add(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        self._entries += [(len(self._low), column, value) for column, value in terms]
        self._low.append(low)
        self._high.append(high)
