from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.aggregation.calibration import Settled, fit_consensus, read_rule, sweep, write_rule
from symmoe.aggregation.consensus import NEVER, ConsensusRule
from symmoe.errors import PoolError
from symmoe.types import Consensus

EASY = Settled(Consensus(1.0, 1.0, 1.0, 3), 1.0, 1.0)
HARD = Settled(Consensus(0.34, 0.1, 1.0, 3), 0.0, 1.0)
consensuses = st.builds(
    Consensus, st.sampled_from([0.34, 0.67, 1.0]), st.floats(-1, 1), st.sampled_from([0.5, 1.0]), st.integers(1, 3)
)
records = st.lists(st.builds(Settled, consensuses, st.floats(0, 1), st.floats(0, 1)), min_size=10, max_size=40)


def test_questions_where_the_vote_is_as_good_are_skipped_and_the_others_asked() -> None:
    fit = fit_consensus([EASY] * 60 + [HARD] * 40)
    rule = ConsensusRule(fit.thresholds)
    assert rule.reached(EASY.consensus)
    assert not rule.reached(HARD.consensus)
    assert (fit.fitted.skipped, fit.fitted.loss) == (0.6, 0.0)
    assert (fit.held_out.skipped, fit.held_out.loss) == (0.6, 0.0)


def test_where_skipping_always_costs_too_much_the_aggregator_is_always_asked() -> None:
    fit = fit_consensus([HARD] * 50)
    assert fit.thresholds == NEVER
    assert fit.fitted.skipped == 0


def test_where_the_vote_is_better_everything_is_skipped_and_the_loss_is_a_gain() -> None:
    worse = [Settled(each.consensus, 1.0, 0.0) for each in (EASY, HARD)]
    fit = fit_consensus(worse * 20)
    assert (fit.fitted.skipped, fit.fitted.loss) == (1.0, -100.0)


@settings(max_examples=25, deadline=None)
@given(records, st.floats(0, 20))
def test_the_loss_on_the_questions_fitted_on_keeps_to_the_tolerance(rows: list[Settled], tolerance: float) -> None:
    fit = fit_consensus(rows, tolerance)
    rule = ConsensusRule(fit.thresholds)
    skipped = [row for row in rows if rule.reached(row.consensus)]
    assert fit.fitted.skipped == pytest.approx(len(skipped) / len(rows), abs=1e-4)
    assert 100 * sum(row.synthesis - row.vote for row in skipped) / len(rows) <= tolerance + 1e-6
    assert fit.fitted.low <= fit.fitted.high


def test_a_fit_is_the_same_for_the_same_seed() -> None:
    drawn = np.random.default_rng(3)
    rows = [
        Settled(Consensus(float(s), float(m), 1.0, 3), float(v), float(a))
        for s, m, v, a in zip(
            drawn.choice([0.34, 0.67, 1], 80), drawn.random(80), *drawn.integers(0, 2, (2, 80)), strict=True
        )
    ]
    assert fit_consensus(rows, seed=1) == fit_consensus(rows, seed=1)


def test_a_sweep_goes_from_everything_skipped_to_nothing() -> None:
    points = sweep([EASY] * 3 + [HARD])
    assert [predicted.skipped for _, predicted in points] == [1.0, 0.75, 0.0]
    assert [predicted.loss for _, predicted in points] == [25.0, 0.0, 0.0]


def test_too_few_questions_are_an_error() -> None:
    with pytest.raises(ValueError, match="9 questions are too few"):
        fit_consensus([EASY] * 9)


def test_a_rule_comes_back_from_its_file(tmp_path: Path) -> None:
    fit = fit_consensus([EASY] * 60 + [HARD] * 40)
    write_rule(tmp_path / "rules" / "rule.json", fit)
    assert read_rule(tmp_path / "rules" / "rule.json").thresholds == fit.thresholds


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        "{}",
        json.dumps({"format": 1}),
        json.dumps({"format": 1, "thresholds": {"share": 1}}),
        json.dumps({"format": 1, "thresholds": {"share": "1", "margin": 0, "agreement": 1, "opinions": 2}}),
        json.dumps({"format": 1, "thresholds": {"share": float("nan"), "margin": 0, "agreement": 1, "opinions": 2}}),
        json.dumps({"format": 2, "thresholds": {"share": 1, "margin": 0, "agreement": 1, "opinions": 2}}),
    ],
)
def test_a_file_that_is_no_rule_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rule.json"
    path.write_text(content)
    with pytest.raises(PoolError, match=r"rule\.json"):
        read_rule(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot be read"):
        read_rule(tmp_path / "none.json")
