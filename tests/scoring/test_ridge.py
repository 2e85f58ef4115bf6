from __future__ import annotations

import numpy as np
import pytest

from symmoe.errors import ConfigError
from symmoe.scoring.ridge import fit_ridges

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(400, 8)).astype(np.float32)
PLANTED = RNG.normal(size=(3, 8)).astype(np.float32)
OFFSETS = np.array([3.0, -1.0, 0.5], dtype=np.float32)
RATINGS = STATES @ PLANTED.T + OFFSETS
NAMES = ("a", "b", "c")


def test_planted_objectives_are_recovered() -> None:
    noisy = RATINGS + 0.05 * np.random.default_rng(1).normal(size=RATINGS.shape).astype(np.float32)
    ridges = fit_ridges(STATES, noisy, NAMES, strength=1e-3)
    assert ridges.weight == pytest.approx(PLANTED, abs=0.02)
    assert ridges.bias == pytest.approx(OFFSETS, abs=0.02)
    assert ridges.rate(STATES) == pytest.approx(RATINGS, abs=0.1)


def test_a_missing_rating_is_left_out_of_its_own_objective_only() -> None:
    masked = RATINGS.copy()
    masked[:300, 0] = np.nan
    masked[350:, 2] = np.nan
    ridges = fit_ridges(STATES, masked, NAMES, strength=1e-3)
    assert ridges.rows == (100, 400, 350)
    assert ridges.weight == pytest.approx(PLANTED, abs=0.01)
    alone = fit_ridges(STATES[300:], RATINGS[300:, :1], NAMES[:1], strength=1e-3)
    assert ridges.weight[0] == pytest.approx(alone.weight[0], abs=1e-6)


def test_strength_shrinks_the_weights() -> None:
    weak, strong = (fit_ridges(STATES, RATINGS, NAMES, strength) for strength in (0.01, 1000.0))
    assert np.linalg.norm(strong.weight) < 0.5 * np.linalg.norm(weak.weight)


def test_an_objective_with_hardly_any_ratings_is_refused_by_name() -> None:
    masked = RATINGS.copy()
    masked[1:, 1] = np.nan
    with pytest.raises(ConfigError, match="objective 'b' has 1 ratings"):
        fit_ridges(STATES, masked, NAMES)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ratings are \(399, 3\)"):
        fit_ridges(STATES, RATINGS[1:], NAMES)
    with pytest.raises(ConfigError, match="a hidden state holds NaN"):
        fit_ridges(np.full_like(STATES, np.nan), RATINGS, NAMES)
