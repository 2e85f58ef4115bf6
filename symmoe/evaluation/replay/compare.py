"""Fitting every router, replaying it on test sets, and saying how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.evaluation.replay.contest import ROUTERS
from symmoe.evaluation.replay.records import RecordedSet
from symmoe.evaluation.replay.routers import Embedded
from symmoe.evaluation.statistics import interval95
from symmoe.protocols import Embedder

RESAMPLES = 2000
COMPARED_WITH = ("best_single", "clusters")
_Earned = Mapping[str, list[NDArray[np.float64]]]


def replay(train: Sequence[RecordedSet], test: Sequence[RecordedSet], embedder: Embedder, seed: int) -> dict[str, Any]:
    """Percent earned by each router on each test set, the mean over sets, and 95 % intervals by bootstrap.

    Questions are resampled within each set. `over_best_single` and `over_clusters` are paired differences in the mean,
    in points: both routers are judged on the same resampled questions.
    """
    fitted_on = [Embedded(each, embedder.embed(each.questions)) for each in train]
    asked = [Embedded(each, embedder.embed(each.questions)) for each in test]
    earned: dict[str, list[NDArray[np.float64]]] = {}
    for name, fit in ROUTERS.items():
        route = fit(fitted_on, seed, embedder)
        earned[name] = [(route(each) * each.recorded.scores).sum(axis=1) for each in asked]
    resampled = _resampled_means(earned, seed)
    names = [each.name for each in train]
    seen = {each.name: each.name in names for each in test}
    return {
        "routers": {name: _row(name, earned, resampled, seen) for name in earned},
        "sets": {each.name: {"n": len(each.questions), "seen": seen[each.name]} for each in test},
    }


def _row(
    name: str, earned: _Earned, resampled: Mapping[str, NDArray[np.float64]], seen: Mapping[str, bool]
) -> dict[str, Any]:
    sets = {each: 100 * float(got.mean()) for each, got in zip(seen, earned[name], strict=True)}
    row: dict[str, Any] = {
        "sets": {each: round(percent, 2) for each, percent in sets.items()},
        "mean": round(float(np.mean(list(sets.values()))), 2),
        "ci95": interval95(100 * resampled[name]),
    }
    for part, wanted in (("mean_seen", True), ("mean_unseen", False)):
        among = [percent for each, percent in sets.items() if seen[each] is wanted]
        row[part] = round(float(np.mean(among)), 2) if among else None
    for base in COMPARED_WITH:
        points = np.mean([got.mean() - other.mean() for got, other in zip(earned[name], earned[base], strict=True)])
        over = resampled[name] - resampled[base]
        row[f"over_{base}"] = {"points": round(100 * float(points), 2), "ci95": interval95(100 * over)}
    return row


def _resampled_means(earned: _Earned, seed: int) -> dict[str, NDArray[np.float64]]:
    """The mean over sets of each router in each resample; one resample is the same questions for all."""
    rng = np.random.default_rng(seed)
    totals = np.zeros((RESAMPLES, len(earned)))
    sets = [np.stack(of_set) for of_set in zip(*earned.values(), strict=True)]
    for got in sets:
        size = got.shape[1]
        for resample in range(RESAMPLES):
            totals[resample] += got[:, rng.integers(0, size, size)].mean(axis=1)
    return {name: totals[:, column] / len(sets) for column, name in enumerate(earned)}
