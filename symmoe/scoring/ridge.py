"""Ratings read off frozen hidden states: one ridge regression for each objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symmoe.errors import ConfigError
from symmoe.scoring.heads import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Ridges:
    """Fitted ratings: `weight` `[objectives, e]`, `bias` `[objectives]`, and the rows that each was fitted on."""

    weight: Floats
    bias: Floats
    rows: tuple[int, ...]

    def rate(self, states: Floats) -> Floats:
        """States `[n, e]` to ratings `[n, objectives]`."""
        return np.asarray(states @ self.weight.T + self.bias, dtype=np.float32)


def fit_ridges(states: Floats, ratings: Floats, objectives: Sequence[str], strength: float = 1.0) -> Ridges:
    """Regress ratings `[n, objectives]` on states `[n, e]`; a missing rating is NaN, and only its objective skips it.

    `strength` is the ridge penalty (ArmoRM, §2.1). Raises `ConfigError` for an objective with fewer than two ratings.
    """
    from sklearn.linear_model import Ridge

    if ratings.shape != (len(states), len(objectives)):
        raise ConfigError(
            f"ratings are {ratings.shape}; {len(states)} states and {len(objectives)} objectives need both"
        )
    if not np.isfinite(states).all():
        raise ConfigError("a hidden state holds NaN or infinite numbers", hint="leave out what could not be read")
    weight, bias, rows = [], [], []
    for name, column in zip(objectives, ratings.T, strict=True):
        rated = np.isfinite(column)
        if rated.sum() < 2:
            raise ConfigError(
                f"objective {name!r} has {rated.sum()} ratings", hint="rate more answers, or leave it out"
            )
        fitted = Ridge(alpha=strength).fit(states[rated].astype(np.float64), column[rated].astype(np.float64))
        weight.append(fitted.coef_)
        bias.append(fitted.intercept_)
        rows.append(int(rated.sum()))
    return Ridges(np.array(weight, dtype=np.float32), np.array(bias, dtype=np.float32), tuple(rows))
