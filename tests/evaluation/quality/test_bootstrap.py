from __future__ import annotations

import numpy as np
import pytest

from symmoe.evaluation.quality.bootstrap import RESAMPLES, estimate, paired


def test_equal_ways_differ_by_nothing_for_sure() -> None:
    right = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert paired(right, right, 0) == {"points": 0.0, "ci95": [0.0, 0.0]}


def test_a_difference_is_in_points_and_has_the_sign_of_the_first() -> None:
    assert paired([1.0] * 4, [1.0, 1.0, 1.0, 0.0], 0)["points"] == 25.0
    assert paired([1.0, 1.0, 1.0, 0.0], [1.0] * 4, 0)["points"] == -25.0


def test_the_interval_is_that_of_the_normal_approximation_where_questions_are_many() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(2000) < 0.7, rng.random(2000) < 0.6
    found = paired(first, second, 0)
    differences = first.astype(float) - second.astype(float)
    half = 100 * 1.96 * differences.std() / np.sqrt(len(differences))
    assert found["ci95"] == pytest.approx([found["points"] - half, found["points"] + half], abs=0.15)


def test_pairing_cancels_what_both_find_hard() -> None:
    hard = np.random.default_rng(2).random(400) < 0.5
    better = hard.copy()
    better[np.flatnonzero(~hard)[:20]] = True
    found, alone = paired(better, hard, 0), estimate(better, 0)
    assert found["points"] == 5.0
    assert found["ci95"][0] > 2.5  # the accuracies themselves are known to 5 points only
    assert found["ci95"][1] - found["ci95"][0] < (alone["ci95"][1] - alone["ci95"][0]) / 2


def test_an_accuracy_is_in_percent_and_the_same_under_the_same_seed() -> None:
    right = [1.0, 0.0, 0.0, 0.0]
    assert estimate(right, 3)["points"] == 25.0
    assert estimate(right, 3) == estimate(right, 3)
    assert estimate([1.0] * 10, 0) == {"points": 100.0, "ci95": [100.0, 100.0]}


def test_intervals_of_no_difference_hold_zero_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for turn in range(60):
        first, second = rng.random(80) < 0.5, rng.random(80) < 0.5
        low, high = paired(first, second, turn)["ci95"]
        held += low <= 0 <= high
    assert 51 <= held <= 60
    assert RESAMPLES >= 1000
