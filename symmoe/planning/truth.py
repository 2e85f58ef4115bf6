"""True costs for simulations: as predicted, or with noise and slow workers."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from symmoe.planning.problem import Problem

_DRAWS = 4096


class AsPredicted:
    """Everything takes what the problem says."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def load(self, worker: int, expert: str, after: str | None) -> float:
        """Seconds to make an expert ready."""
        return self._problem.load(expert, after)

    def request(self, worker: int, expert: str, number: int) -> float:
        """Seconds of one request."""
        return self._problem.costs[expert].request


class Noisy:
    """Loads, experts and single requests each vary log-normally about what is predicted, and workers may be slow.

    `experts` is how far off an expert's mean is (a standard deviation of the logarithm), as a cost model is that has
    seen other questions; `requests` and `loads` vary anew each time. `slow` gives the factor of slow workers. A request
    takes the same on every worker, but for that factor.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        experts: float = 0.2,
        requests: float = 0.5,
        loads: float = 0.2,
        slow: Mapping[int, float] | None = None,
    ) -> None:
        self._problem, self._seed, self._slow = problem, seed, dict(slow or {})
        self._spreads = (experts, requests, loads)
        self._draws: dict[str, NDArray[np.float64]] = {}

    def load(self, worker: int, expert: str, after: str | None) -> float:
        """Seconds to make an expert ready."""
        factor = self._factors(expert)[-1 - worker % _DRAWS]
        return self._problem.load(expert, after) * float(factor) * self._slow.get(worker, 1.0)

    def request(self, worker: int, expert: str, number: int) -> float:
        """Seconds of one request."""
        factor = self._factors(expert)[number % _DRAWS]
        return self._problem.costs[expert].request * float(factor) * self._slow.get(worker, 1.0)

    def _factors(self, expert: str) -> NDArray[np.float64]:
        """An expert's factors: of its requests by number, then of its loads, the first worker's last."""
        if expert not in self._draws:
            rng = np.random.default_rng([self._seed, zlib.crc32(expert.encode())])
            experts, requests, loads = self._spreads
            answers = _lognormal(rng, requests, _DRAWS) * _lognormal(rng, experts, 1)
            self._draws[expert] = np.concatenate([answers, _lognormal(rng, loads, _DRAWS)])
        return self._draws[expert]


def _lognormal(rng: np.random.Generator, spread: float, count: int) -> NDArray[np.float64]:
    """Factors with mean one."""
    return np.asarray(rng.lognormal(-(spread**2) / 2, spread, count))
