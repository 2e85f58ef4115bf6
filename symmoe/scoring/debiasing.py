"""Taking the length of an answer out of its ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import ConfigError
from symmoe.scoring.heads import Floats

BAR = 0.03
"""The largest Spearman correlation with the length that is let stand (ArmoRM, §2.2)."""
_DOUBLINGS, _HALVINGS = 24, 60
_CLOSE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Debiasing:
    """What was done to each objective, and the Spearman correlations that resulted on the reference answers.

    `transform` `[objectives, objectives]` is applied as rᵀT. `before` and `after` are with the length, `kept` between
    an objective and what was made of it. The column that was subtracted is left zero.
    """

    transform: Floats
    penalties: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    kept: tuple[float, ...]


def debias(
    ratings: Floats, lengths: Sequence[float], by: int, objectives: Sequence[str], bar: float = BAR
) -> Debiasing:
    """r'ᵢ = rᵢ − λᵢ·r_by with the λᵢ that leaves r'ᵢ and the length uncorrelated, found by bisection (ArmoRM, §2.2).

    `ratings` `[n, objectives]` are the model's own, of reference answers of those `lengths`; column `by` is the rating
    that tells the length. Raises `ConfigError` for an objective whose correlation cannot be brought to `bar`.
    """
    measured = np.asarray(lengths, dtype=np.float64)
    told = ratings[:, by].astype(np.float64)
    transform = np.eye(ratings.shape[1], dtype=np.float32)
    transform[by, by] = 0.0
    rows: list[tuple[float, ...]] = []
    for place, name in enumerate(objectives):
        values = ratings[:, place].astype(np.float64)
        penalty = 1.0 if place == by else length_penalty(values, told, measured, name, bar)
        if place != by:
            transform[by, place] = -penalty
        left = values - penalty * told
        rows.append((penalty, *(spearman(x, y) for x, y in ((values, measured), (left, measured), (values, left)))))
    penalties, before, after, kept = zip(*rows, strict=True)
    return Debiasing(transform, penalties, before, after, kept)


def length_penalty(
    values: NDArray[np.float64], told: NDArray[np.float64], lengths: NDArray[np.float64], name: str, bar: float = BAR
) -> float:
    """The λ at which values − λ·told and the lengths, all `[n]`, have a Spearman correlation next to zero.

    Raises `ConfigError`, which names what was to be debiased, if none brings it to `bar`.
    """

    def left(penalty: float) -> float:
        return spearman(values - penalty * told, lengths)

    start = left(0.0)
    if abs(start) <= _CLOSE:
        return 0.0
    step = np.sign(start * spearman(told, lengths)) * (values.std() / (told.std() or 1.0))
    far = next((step * 2.0**n for n in range(_DOUBLINGS) if left(step * 2.0**n) * start <= 0), None)
    found = 0.0 if far is None else _crossing(left, far, start)
    if abs(left(found)) > bar:
        raise ConfigError(
            f"{name}: its correlation with the length stays {left(found):+.3f}, above {bar}",
            hint="use more reference answers, or states from which the length can be told",
        )
    return found


def spearman(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Spearman's correlation of two rows of numbers; 0 where one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (left, right)]
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float(ranks[0] @ ranks[1] / scale) if scale else 0.0


def _crossing(left: Any, far: float, start: float) -> float:
    """Where `left` changes its sign between 0, where it is `start`, and `far`."""
    near = 0.0
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        reached = left(middle)
        if abs(reached) <= _CLOSE:
            return middle
        near, far = (middle, far) if reached * start > 0 else (near, middle)
    return min((near, far), key=lambda penalty: abs(left(penalty)))
