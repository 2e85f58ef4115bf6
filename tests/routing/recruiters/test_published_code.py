from __future__ import annotations

import pytest

from symmoe.routing.recruiters.published import PublishedCodeRecruiter
from tests.fakes import profiles, query, skills
from tests.routing.strategies import asked_alone, experts_of


def test_the_rule_by_hand() -> None:
    # totals 4, 2 and 1, squared (T = 1/2): 16, 4 and 1, γ = 16/21, 4/21 and 1/21
    # S on sums = 3, 2 and −1; γS = 48/21, 8/21 and −1/21: the positive ones are shared out as they are
    scores = {"a": {"sums": 3, "dates": 1}, "b": {"sums": 2}, "c": {"sums": -1, "dates": 2}}
    shares = PublishedCodeRecruiter(profiles(scores)).shares(skills("q", "sums"))
    assert shares == pytest.approx({"a": 48 / 56, "b": 8 / 56})


def test_the_temperature_is_the_root_of_the_competences() -> None:
    # totals 4 and 2 to the power 1/T = 1: γ = 2/3 and 1/3; S = 3 and 2; γS = 2 and 2/3
    scores = {"a": {"sums": 3, "dates": 1}, "b": {"sums": 2}}
    shares = PublishedCodeRecruiter(profiles(scores), temperature=1).shares(skills("q", "sums"))
    assert shares == pytest.approx({"a": 3 / 4, "b": 1 / 4})


def test_nobody_is_trimmed() -> None:
    # totals 10 and 1: γS = 10 · 100/101 and 1 · 1/101
    scores = {"a": {"sums": 10}, "b": {"sums": 1}}
    shares = PublishedCodeRecruiter(profiles(scores), min_share=0.05).shares(skills("q", "sums"))
    assert shares == pytest.approx({"a": 1000 / 1001, "b": 1 / 1001})


def test_a_negative_total_shifts_all_totals_so_that_the_lowest_has_no_competence() -> None:
    # totals 5, 1 and −1, shifted to 6, 2 and 0, squared: γ = 36/40, 4/40 and 0; S = 2, 1 and 4; γS = 72/40, 4/40 and 0
    scores = {"a": {"sums": 2, "dates": 3}, "b": {"sums": 1}, "c": {"sums": 4, "dates": -5}}
    shares = PublishedCodeRecruiter(profiles(scores)).shares(skills("q", "sums"))
    assert shares == pytest.approx({"a": 72 / 76, "b": 4 / 76})


def test_where_no_product_is_positive_all_are_shifted() -> None:
    # totals 2 and 1: γ = 4/5 and 1/5; S on sums = −1 and −2; γS = −0.8 and −0.4, shifted to 0 and 0.4
    scores = {"a": {"sums": -1, "dates": 3}, "b": {"sums": -2, "dates": 3}}
    shares = PublishedCodeRecruiter(profiles(scores)).shares(skills("q", "sums"))
    assert shares == pytest.approx({"b": 1.0, "a": 0.0})
    assert next(iter(shares)) == "b"


def test_scores_that_tell_nobody_apart_give_equal_shares() -> None:
    scores = {"a": {"sums": 0}, "b": {"sums": 0}}
    assert PublishedCodeRecruiter(profiles(scores)).shares(skills("q", "sums")) == {"a": 0.5, "b": 0.5}


def test_experts_are_drawn_with_replacement() -> None:
    found = asked_alone(PublishedCodeRecruiter(profiles({"a": {"sums": 3}, "b": {"sums": -1}})), skills("q", "sums"), 4)
    assert experts_of(found) == ["a", "a", "a", "a"]


def test_a_query_of_which_no_skill_is_known_goes_to_the_fallback() -> None:
    recruiter = PublishedCodeRecruiter(profiles({"a": {"sums": 9}, "b": {"dates": 9}}), fallback="b")
    assert asked_alone(recruiter, skills("q", "cooking")).shares == {"b": 1.0}


def test_a_temperature_near_zero_leaves_all_competence_to_the_highest_total() -> None:
    scores = {"a": {"sums": 2000}, "b": {"sums": 1000}}
    shares = PublishedCodeRecruiter(profiles(scores), temperature=0.005).shares(skills("q", "sums"))
    assert shares["a"] == pytest.approx(1)


def test_an_explanation_does_not_say_that_an_expert_was_trimmed() -> None:
    recruiter = PublishedCodeRecruiter(profiles({"a": {"sums": 3}, "b": {"sums": -1, "dates": 5}}))
    told = recruiter.explain(query("text"), skills("q", "sums"), 1, 0)
    assert [(s.expert, s.share, s.chosen) for s in told.standings] == [("a", 1.0, True), ("b", 0.0, False)]
    assert "share under" not in told.standings[1].why
