"""How sure a figure is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def interval95(resampled: NDArray[np.float64]) -> list[float]:
    """The central 95 % of bootstrap resamples, rounded to hundredths."""
    return [round(float(bound), 2) for bound in np.quantile(resampled, (0.025, 0.975))]
