from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.consensus import NEVER, ConsensusRule, Thresholds, measure
from symmoe.aggregation.vote import WeightedVote
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
