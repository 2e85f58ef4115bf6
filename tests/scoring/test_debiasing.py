from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from symmoe.errors import ConfigError
from symmoe.scoring.debiasing import BAR, debias, spearman

NAMES = ("up", "down", "free", "length")


def biased(seed: int, count: int = 800, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Ratings that grow, fall and do not change with the length, and one that tells it but roughly."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(4, 1, count)).round()
    log = np.log1p(lengths)
    noise = rng.normal(size=(4, count))
    ratings = [noise[0] + strength * log, 0.1 * noise[1] - 0.2 * strength * log, noise[2], log + 0.3 * noise[3]]
    return np.stack(ratings, axis=1).astype(np.float32), lengths


@given(seed=st.integers(0, 10_000), strength=st.floats(0.05, 3.0))
@settings(max_examples=15)
def test_no_objective_keeps_a_correlation_with_the_length(seed: int, strength: float) -> None:
    ratings, lengths = biased(seed, strength=strength)
    debiased = debias(ratings, lengths.tolist(), by=3, objectives=NAMES)
    changed = ratings @ debiased.transform
    for place in range(3):
        reached = spearmanr(changed[:, place], lengths).statistic
        assert abs(reached) <= BAR
        assert debiased.after[place] == pytest.approx(reached, abs=2e-3)
        assert debiased.before[place] == pytest.approx(spearmanr(ratings[:, place], lengths).statistic)


def test_what_was_not_length_is_kept() -> None:
    ratings, lengths = biased(0)
    debiased = debias(ratings, lengths.tolist(), by=3, objectives=NAMES)
    quality = ratings[:, 0] - np.log1p(lengths)
    assert spearman((ratings @ debiased.transform)[:, 0], quality) > 0.9
    assert spearman(ratings[:, 0], quality) < 0.8
    assert debiased.before[0] > 0.6
    assert debiased.before[1] < -0.6
    assert debiased.kept[2] > 0.999


def test_only_the_row_of_the_length_is_changed_and_its_own_column_is_zero() -> None:
    ratings, lengths = biased(1)
    transform = debias(ratings, lengths.tolist(), by=3, objectives=NAMES).transform
    assert (transform[:3, :3] == np.eye(3)).all()
    assert (transform[:, 3] == 0).all()
    assert transform[3, 0] < 0 < transform[3, 1]


def test_an_objective_that_is_constant_is_left_alone() -> None:
    ratings, lengths = biased(2)
    ratings[:, 2] = 3.0
    debiased = debias(ratings, lengths.tolist(), by=3, objectives=NAMES)
    assert debiased.penalties[2] == 0.0
    assert debiased.before[2] == 0.0


def test_a_length_that_the_ratings_do_not_tell_is_an_error_by_name() -> None:
    ratings, lengths = biased(3)
    ratings[:, 3] = 1.0
    with pytest.raises(ConfigError, match=r"up: its correlation with the length stays \+0\.\d+, above 0\.03"):
        debias(ratings, lengths.tolist(), by=3, objectives=NAMES)


def test_a_rating_of_few_values_that_cannot_reach_the_bar_is_an_error() -> None:
    lengths = np.array([1.0, 2.0, 3.0])
    ratings = np.array([[0, 1], [1, 2], [3.3, 4]], dtype=np.float32)  # the correlation jumps from 1/2 to -1/2
    with pytest.raises(ConfigError, match="correlation with the length stays"):
        debias(ratings, lengths.tolist(), by=1, objectives=("few", "length"))


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-9, 9)), min_size=3, max_size=40))
def test_spearman_is_that_of_scipy_ties_included(pairs: list[tuple[int, float]]) -> None:
    left, right = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if len(set(left)) > 1 and len(set(right)) > 1:
        assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic, abs=1e-9)
    else:
        assert spearman(left, right) == 0.0
