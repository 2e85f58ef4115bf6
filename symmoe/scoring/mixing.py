"""What a reward model says of answers, and what the record says of their experts, as one weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import ConfigError

MOST = 20.0
"""The largest slope and exponent that a fit may end at: beyond it one answer takes all."""
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class Mixture:
    """A product of experts: weight ∝ exp(score / temperature) · share ** evidence.

    `evidence` 0 leaves the record out. The temperature is in units of the reward model's scores.
    """

    temperature: float = 1.0
    evidence: float = 1.0

    def weigh(self, scores: Sequence[float | None], shares: Sequence[float]) -> list[float]:
        """Weights of one query's answers, which sum to one; an answer without a score weighs 0.

        If no answer has a score, all weights are 0.
        """
        known = [place for place, score in enumerate(scores) if score is not None]
        weights = [0.0] * len(scores)
        if known:
            told = np.array([scores[place] for place in known], dtype=np.float64)
            raised = np.exp(_exponents(told, np.array([shares[p] for p in known]), 1 / self.temperature, self.evidence))
            for place, weight in zip(known, raised / raised.sum(), strict=True):
                weights[place] = float(weight)
        return weights


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers to one query: their scores, the shares of their experts, and which of them are right, each `[n]`."""

    scores: NDArray[np.float64]
    shares: NDArray[np.float64]
    right: NDArray[np.bool_]


def fit_mixture(judged: Sequence[Judged]) -> Mixture:
    """The mixture under which right answers weigh most: it maximises the mean log of their weight in each query.

    Queries whose answers are all right or all wrong tell nothing and are left out. Raises `ConfigError` if none is
    left.
    """
    from scipy.optimize import minimize

    telling = [query for query in judged if query.right.any() and not query.right.all()]
    if not telling:
        raise ConfigError("no question has both right and wrong answers: nothing tells how to weigh them")

    def loss(parameters: NDArray[np.float64]) -> float:
        return -float(np.mean([_log_weight(query, *parameters) for query in telling]))

    scale = float(np.std(np.concatenate([query.scores for query in telling]))) or 1.0
    start, bounds = np.array([1.0 / scale, 1.0]), [(1e-3 / scale, MOST / scale), (0.0, MOST)]
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    slope, evidence = (float(number) for number in found.x)
    return Mixture(1 / slope, evidence)


def _log_weight(query: Judged, slope: float, evidence: float) -> float:
    """The logarithm of the weight of a query's right answers."""
    exponents = _exponents(query.scores, query.shares, slope, evidence)
    return float(np.log(np.exp(exponents[query.right]).sum() + 1e-12) - np.log(np.exp(exponents).sum()))


def _exponents(
    scores: NDArray[np.float64], shares: NDArray[np.float64], slope: float, evidence: float
) -> NDArray[np.float64]:
    """Logarithms of the weights, the largest of them 0."""
    raw = scores * slope + evidence * np.log(np.maximum(shares, _LEAST_SHARE))
    return np.asarray(raw - raw.max(), dtype=np.float64)
