from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.vote import WeightedVote
from symmoe.errors import ConfigError
from symmoe.protocols import RewardModel
from symmoe.scoring.weighing import FAILED, MOST, Judged, Mixture, RecordScorer, RewardScorer, fit_mixture, judge, weigh
from symmoe.types import Candidate, Query, Recruitment, Reward, Verdict
from tests.fakes import candidate, query

SHARES = Recruitment("q", (), {"a": 0.75, "b": 0.25})


def weighed(candidates: list[Candidate]) -> list[Verdict]:
    return RecordScorer().weigh([query("text")], [candidates], [SHARES])[0]


def test_a_candidate_weighs_the_share_with_which_its_expert_was_recruited() -> None:
    asked = [candidate("b", "5"), candidate("a", "6"), candidate("b", "7", slot=1)]
    assert weighed(asked) == [Verdict("b", 0, 0.25), Verdict("a", 0, 0.75), Verdict("b", 1, 0.25)]


def test_an_empty_or_failed_generation_weighs_nothing() -> None:
    asked = [candidate("a", ""), replace(candidate("a", "half", slot=1), finish_reason="error")]
    assert [v.weight for v in weighed(asked)] == [0.0, 0.0]


def test_an_answer_cut_for_its_length_still_counts() -> None:
    cut = replace(candidate("a", "half"), finish_reason="length")
    assert weighed([cut]) == [Verdict("a", 0, 0.75)]


def test_where_accuracies_are_known_a_candidate_weighs_their_log_odds_among_the_options_listed() -> None:
    recruited = replace(SHARES, accuracies={"a": 0.75, "b": 0.2})
    asked = query("Which? A. one B. two C. three D. four E. five")
    (verdicts,) = RecordScorer().weigh([asked], [[candidate("a", "A"), candidate("b", "B")]], [recruited])
    assert [verdict.weight for verdict in verdicts] == pytest.approx([math.log(0.75 * 4 / 0.25), 0.0])


def test_two_fair_experts_who_agree_outvote_a_better_one() -> None:
    recruited = Recruitment("q", (), {"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 0.6, "b": 0.5, "c": 0.5})
    asked = query("Which? A. one B. two C. three D. four E. five")
    found = [candidate("a", "A"), candidate("b", "B"), candidate("c", "B")]
    (verdicts,) = RecordScorer().weigh([asked], [found], [recruited])
    assert WeightedVote().aggregate(asked, found, verdicts).text == "B"


def test_an_expert_that_has_no_share_weighs_nothing() -> None:
    assert weighed([candidate("c", "5")]) == [Verdict("c", 0, 0.0)]


def test_every_query_is_weighed_by_its_own_shares() -> None:
    other = Recruitment("r", (), {"a": 1.0})
    queries = [query("text", "q"), query("text", "r")]
    asked = [[candidate("a", "5")], [candidate("a", "5", ident="r")]]
    verdicts = weigh(RecordScorer(), queries, asked, [SHARES, other])
    assert [[v.weight for v in row] for row in verdicts] == [[0.75], [1.0]]


def test_candidates_of_fewer_queries_than_there_are_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weigh(RecordScorer(), [query("text")], [], [SHARES])


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


class Lengths:
    """Scores a text by its length, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        self.shown = [list(row) for row in candidates]
        return [[Reward(float(len(text))) for text in row] for row in candidates]


def test_failed_generations_are_not_read_and_the_others_keep_their_places() -> None:
    failed = replace(candidate("b", "half an answ"), finish_reason="error")
    rows = [[failed, candidate("a", "yes"), failed, candidate("c", "y")], [failed], []]
    model = Lengths()
    rewards = judge(model, [query("one"), query("two", "r"), query("three", "s")], rows)
    assert rewards == [[FAILED, Reward(3.0), FAILED, Reward(1.0)], [FAILED], []]
    assert FAILED.score is None
    assert model.shown == [["yes", "y"], [], []]


def verdicts(model: RewardModel, mixture: Mixture, rows: Sequence[Sequence[Candidate]]) -> list[list[Verdict]]:
    queries = [query("one", f"q{place}") for place in range(len(rows))]
    shares = Recruitment("q", (), {"a": 0.6, "b": 0.4})
    return weigh(RewardScorer(model, mixture), queries, rows, [shares] * len(rows))


def test_the_scorer_weighs_by_reward_and_record_and_tells_the_reward() -> None:
    row = [candidate("a", "yes"), candidate("b", "no")]
    found = verdicts(Lengths(), Mixture(2.0, 1.0), [row])[0]
    raised = [exp(3 / 2) * 0.6, exp(2 / 2) * 0.4]
    assert [v.weight for v in found] == pytest.approx([x / sum(raised) for x in raised])
    assert [v.reward for v in found] == [Reward(3.0), Reward(2.0)]
    assert [(v.expert, v.slot) for v in found] == [("a", 0), ("b", 0)]


class Asked(Lengths):
    """Counts how often it is asked; texts of one letter have no score."""

    times = 0

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        self.times += 1
        rows = super().score(queries, candidates)
        return [[Reward(None, note="short") if r.score == 1 else r for r in row] for row in rows]


def test_the_model_is_asked_once_for_a_batch_and_what_has_no_score_weighs_nothing() -> None:
    model = Asked()
    failed = replace(candidate("a", "half an answ"), finish_reason="error")
    rows = [[candidate("a", "y"), candidate("b", "yes")], [failed, candidate("b", "no")]]
    found = verdicts(model, Mixture(), rows)
    assert model.times == 1
    assert [[v.weight for v in row] for row in found] == [[0.0, 1.0], [0.0, 1.0]]
    assert found[1][0].reward == FAILED


def test_where_nothing_can_be_judged_the_records_decide_and_failures_still_weigh_nothing() -> None:
    failed = replace(candidate("b", "half an answ"), finish_reason="error")
    found = verdicts(Asked(), Mixture(), [[candidate("a", "y"), candidate("b", "n")], [candidate("a", "y"), failed]])
    assert [[v.weight for v in row] for row in found] == [[0.6, 0.4], [0.6, 0.0]]


def test_the_scorer_of_no_candidates_gives_no_verdicts() -> None:
    assert verdicts(Lengths(), Mixture(), [[]]) == [[]]
