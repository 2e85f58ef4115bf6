from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.contrast import contrasted
from symmoe.aggregation.vote import WeightedVote
from symmoe.types import Verdict
from tests.fakes import candidate, query

weights = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(weights, st.floats(0, 1))
def test_no_answer_gains_and_something_is_left(given_weights: list[float], strength: float) -> None:
    groups = [[place] for place in range(len(given_weights))]
    left = contrasted(given_weights, groups, strength)
    assert all(0 <= now <= before for now, before in zip(left, given_weights, strict=True))
    assert any(left) == any(given_weights)


@given(weights)
def test_without_strength_weights_add_up(given_weights: list[float]) -> None:
    assert contrasted(given_weights, [range(len(given_weights))], 0.0) == [pytest.approx(sum(given_weights))]


def test_an_answer_that_only_strong_experts_give_can_pass_one_that_weak_ones_give_too() -> None:
    rows = [("a", "red", 0.4), ("b", "blue", 0.4), ("c", "blue", 0.1)]
    candidates, verdicts = [candidate(e, t) for e, t, _ in rows], [Verdict(e, 0, w) for e, _, w in rows]
    assert WeightedVote().aggregate(query("?"), candidates, verdicts).text == "blue"
    found = WeightedVote(contrast=0.2).aggregate(query("?"), candidates, verdicts)
    assert [(vote.answer, vote.experts) for vote in found.votes] == [("red", ("a",)), ("blue", ("b", "c"))]
