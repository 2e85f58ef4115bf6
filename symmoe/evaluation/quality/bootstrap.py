"""How sure accuracies and their differences are: the bootstrap over questions, paired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.evaluation.statistics import interval95

Values = Sequence[float] | NDArray[np.float64]
RESAMPLES = 10_000
_ROWS = 500


def estimate(values: Values, seed: int) -> dict[str, Any]:
    """The mean of `values` (0..1, a question each) in percent, and its 95 % interval."""
    return _told(100 * np.asarray(values, dtype=np.float64), seed)


def paired(first: Values, second: Values, seed: int) -> dict[str, Any]:
    """How much better `first` is than `second` on the same questions, in points, and the 95 % interval.

    Whole questions are resampled, so that what both find hard cancels out.
    """
    return _told(100 * (np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)), seed)


def _told(values: NDArray[np.float64], seed: int) -> dict[str, Any]:
    return {"points": round(float(values.mean()), 2), "ci95": interval95(_means(values, seed))}


def _means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The means of `RESAMPLES` resamples; in blocks, since ten thousand questions would else take gigabytes."""
    rng = np.random.default_rng(seed)
    shapes = [min(_ROWS, RESAMPLES - begin) for begin in range(0, RESAMPLES, _ROWS)]
    return np.concatenate([values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1) for rows in shapes])
