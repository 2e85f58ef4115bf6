from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import ConfigError
from symmoe.scoring.mixing import MOST, Judged, Mixture, fit_mixture

SCORES = st.lists(st.one_of(st.none(), st.floats(-50, 50)), min_size=1, max_size=6)


@given(SCORES, st.floats(0.01, 10), st.floats(0, 5), st.data())
def test_weights_are_a_distribution_over_the_answers_that_have_a_score(
    scores: list[float | None], temperature: float, evidence: float, data: st.DataObject
) -> None:
    shares = data.draw(st.lists(st.floats(0, 1), min_size=len(scores), max_size=len(scores)))
    weights = Mixture(temperature, evidence).weigh(scores, shares)
    assert len(weights) == len(scores)
    assert all(weight >= 0 for weight in weights)
    assert all(weight == 0 for weight, score in zip(weights, scores, strict=True) if score is None)
    assert sum(weights) == pytest.approx(1.0 if any(score is not None for score in scores) else 0.0)


def test_the_temperature_divides_scores_and_the_exponent_raises_shares() -> None:
    weights = Mixture(temperature=2.0, evidence=0.5).weigh([1.0, 3.0], [0.64, 0.36])
    raised = np.exp([0.5, 1.5]) * np.sqrt([0.64, 0.36])
    assert weights == pytest.approx(list(raised / raised.sum()))


def test_without_evidence_shares_do_not_count_and_a_share_of_zero_still_weighs_something() -> None:
    assert Mixture(1.0, 0.0).weigh([0.0, 0.0], [0.0, 1.0]) == pytest.approx([0.5, 0.5])
    assert 0 < Mixture(1.0, 1.0).weigh([0.0, 0.0], [0.0, 1.0])[0] < 1e-5


def drawn(count: int, telling_scores: float, telling_shares: float, seed: int) -> list[Judged]:
    """Queries of four answers of which one is right; scores and shares tell it as far as they are said to."""
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(count):
        right = np.zeros(4, dtype=np.bool_)
        right[rng.integers(4)] = True
        raised = np.exp(telling_shares * right + rng.normal(size=4))
        queries.append(Judged(telling_scores * right + rng.normal(size=4), raised / raised.sum(), right))
    return queries


def hits(queries: Sequence[Judged], mixture: Mixture) -> float:
    chosen = [int(np.argmax(mixture.weigh(q.scores.tolist(), q.shares.tolist()))) for q in queries]
    return float(np.mean([q.right[place] for q, place in zip(queries, chosen, strict=True)]))


def test_a_fit_chooses_better_on_new_queries_than_scores_or_shares_alone() -> None:
    mixture = fit_mixture(drawn(600, 1.5, 1.5, 0))
    new = drawn(2000, 1.5, 1.5, 1)
    assert hits(new, mixture) > max(hits(new, Mixture(1e-3, 0.0)), hits(new, Mixture(1e3, 1.0))) + 0.03


def test_shares_that_tell_nothing_are_left_out_and_scores_that_tell_nothing_count_little() -> None:
    assert fit_mixture(drawn(600, 2.0, 0.0, 0)).evidence < 0.2
    useless = fit_mixture(drawn(600, 0.0, 2.0, 0))
    assert useless.temperature > 5
    assert 1.6 < useless.evidence < 2.4  # of shares exp(2 · right + noise), the noise of variance 1


def test_queries_whose_answers_are_all_right_or_all_wrong_change_nothing() -> None:
    telling = drawn(50, 1.0, 1.0, 0)
    same = Judged(np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.array([True, True]))
    none = Judged(np.array([5.0]), np.array([1.0]), np.array([False]))
    assert fit_mixture([same, *telling, none]) == fit_mixture(telling)


def test_scores_that_always_tell_are_sharpened_and_no_further_than_the_bound() -> None:
    certain = [Judged(np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([True, False]))] * 20
    assert 0.5 / MOST * (1 - 1e-9) <= fit_mixture(certain).temperature < 0.15


def test_nothing_to_tell_by_is_an_error() -> None:
    with pytest.raises(ConfigError, match="both right and wrong"):
        fit_mixture([Judged(np.array([1.0]), np.array([1.0]), np.array([True]))])
