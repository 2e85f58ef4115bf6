from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.aggregation.consensus import (
    NEVER,
    ConsensusRule,
    Settled,
    Thresholds,
    fit_consensus,
    measure,
    read_rule,
    write_rule,
)
from symmoe.aggregation.vote import WeightedVote
from symmoe.errors import PoolError
from symmoe.types import Candidate, Consensus, Verdict
from tests.fakes import candidate, query

Draw = tuple[str, str, float]


def measured(*draws: Draw, shared: tuple[int, ...] = ()) -> Consensus:
    slots: dict[str, int] = {}
    candidates: list[Candidate] = []
    for place, (expert, text, _) in enumerate(draws):
        slots[expert] = slots.get(expert, -1) + 1
        candidates.append(candidate(expert, text, slots[expert], shared=place in shared))
    verdicts = [Verdict(c.expert, c.slot, weight) for c, (_, _, weight) in zip(candidates, draws, strict=True)]
    return measure(candidates, verdicts, WeightedVote().aggregate(query("?"), candidates, verdicts).votes)


def test_experts_who_all_say_the_same_agree() -> None:
    assert measured(("a", "1", 0.5), ("b", "1", 0.3), ("c", "1", 0.2)) == Consensus(1.0, 1.0, 1.0, 3)


def test_three_draws_of_one_expert_are_one_opinion() -> None:
    found = measured(("a", "1", 0.5), ("a", "1", 0.5), ("a", "1", 0.5), ("b", "2", 0.5))
    assert found == Consensus(0.5, 0.0, 1.0, 2)
    assert not ConsensusRule().reached(measured(("a", "1", 0.5), ("a", "1", 0.5)))


def test_an_expert_split_between_answers_splits_its_opinion_and_disagrees_with_itself() -> None:
    found = measured(("a", "1", 0.4), ("a", "2", 0.4), ("a", "1", 0.4), ("b", "1", 0.6))
    assert found.share == pytest.approx((2 / 3 + 1) / 2, abs=1e-6)
    assert found.agreement == pytest.approx(2 / 3, abs=1e-6)
    assert found.margin == pytest.approx((0.4 * 2 / 3 + 0.6) - 0.4 / 3, abs=1e-6)


def test_copies_of_one_greedy_generation_say_nothing_of_an_expert_s_agreement_with_itself() -> None:
    assert measured(("a", "1", 0.5), ("a", "1", 0.5), ("b", "2", 0.4), shared=(1,)).agreement == 1.0


def test_what_cannot_be_read_agrees_with_nothing() -> None:
    assert measured(("a", "", 0.0), ("b", "", 0.0)) == Consensus(0.0, 0.0, 1.0, 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["1", "2", ""]), st.floats(0, 1)), min_size=1))
def test_figures_are_within_bounds(draws: list[Draw]) -> None:
    found = measured(*draws)
    assert 0 <= found.share <= 1
    assert -1 <= found.margin <= 1
    assert 0 < found.agreement <= 1
    assert found.opinions == len({expert for expert, _, _ in draws})
    assert not ConsensusRule(NEVER).reached(found)
    assert ConsensusRule(Thresholds(0, -1, 0, 0)).reached(found)


def test_a_rule_says_which_figures_decided() -> None:
    rule = ConsensusRule(Thresholds(share=0.6, margin=0.2, agreement=0.5, opinions=2))
    assert rule.why(Consensus(0.5, 0.1, 1.0, 3)) == "share 0.5 is below 0.6; margin 0.1 is below 0.2"
    assert (
        rule.why(Consensus(0.75, 0.5, 1.0, 3))
        == "share 0.75 of 0.6; margin 0.5 of 0.2; agreement 1 of 0.5; opinions 3 of 2"
    )


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
