"""Fitting every router, replaying it on test sets, and saying how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.evaluation.replay.records import RecordedSet
from symmoe.evaluation.replay.routers import ROUTERS, Embedded
from symmoe.protocols import Embedder

RESAMPLES = 2000
_Earned = Mapping[str, list[NDArray[np.float64]]]


def replay(train: Sequence[RecordedSet], test: Sequence[RecordedSet], embedder: Embedder, seed: int) -> dict[str, Any]:
    """Percent earned by each router on each test set, the mean over sets, and 95 % intervals by bootstrap.

    Questions are resampled within each set. `over_best_single` is the paired difference in the mean, in points: both
    routers are judged on the same resampled questions.
    """
    fitted_on = [Embedded(each, embedder.embed(each.questions)) for each in train]
    asked = [Embedded(each, embedder.embed(each.questions)) for each in test]
    earned: dict[str, list[NDArray[np.float64]]] = {}
    for name, fit in ROUTERS.items():
        route = fit(fitted_on, seed)
        earned[name] = [(route(each) * each.recorded.scores).sum(axis=1) for each in asked]
    resampled = _resampled_means(earned, seed)
    seen = {each.name for each in train}
    return {
        "routers": {name: _row(name, earned, resampled, test) for name in earned},
        "sets": {each.name: {"n": len(each.questions), "seen": each.name in seen} for each in test},
    }


def _row(
    name: str, earned: _Earned, resampled: Mapping[str, NDArray[np.float64]], test: Sequence[RecordedSet]
) -> dict[str, Any]:
    sets = {each.name: round(100 * float(got.mean()), 2) for each, got in zip(test, earned[name], strict=True)}
    over = resampled[name] - resampled["best_single"]
    mean, base = (float(np.mean([got.mean() for got in earned[router]])) for router in (name, "best_single"))
    return {
        "sets": sets,
        "mean": round(100 * mean, 2),
        "ci95": _interval(resampled[name]),
        "over_best_single": {"points": round(100 * (mean - base), 2), "ci95": _interval(over)},
    }


def _interval(means: NDArray[np.float64]) -> list[float]:
    return [round(100 * float(bound), 2) for bound in np.quantile(means, (0.025, 0.975))]


def _resampled_means(earned: _Earned, seed: int) -> dict[str, NDArray[np.float64]]:
    """The mean over sets of each router in each resample; one resample is the same questions for all."""
    rng = np.random.default_rng(seed)
    totals = {name: np.zeros(RESAMPLES) for name in earned}
    sizes = [len(got) for got in next(iter(earned.values()))]
    for index, size in enumerate(sizes):
        for resample in range(RESAMPLES):
            drawn = rng.integers(0, size, size)
            for name, got in earned.items():
                totals[name][resample] += got[index][drawn].mean()
    return {name: total / len(sizes) for name, total in totals.items()}
