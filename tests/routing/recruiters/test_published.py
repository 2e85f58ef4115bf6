from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.routing.recruiters.published import PublishedRecruiter
from symmoe.types import Skills, Tally
from tests.fakes import profiles, query, skills
from tests.routing.strategies import NUMBER, asked_alone, experts_of, needs, pool, record

SKILLS = ["sums", "spanish", "sorting", "dates"]
records = st.dictionaries(
    st.sampled_from("abcdefgh"), st.dictionaries(st.sampled_from(SKILLS), st.integers(-30, 30)), min_size=1
)
needed = st.lists(st.sampled_from(SKILLS), unique=True).map(lambda names: skills("q", *names))
temperatures = st.floats(0.05, 5)


@given(records, needed, st.integers(1, 12), temperatures, st.floats(0, 0.4))
def test_every_query_is_given_exactly_k_slots(
    scores: dict[str, dict[str, int]], need: Skills, k: int, temperature: float, least: float
) -> None:
    found = asked_alone(PublishedRecruiter(profiles(scores), temperature, least), need, k)
    assert len(found.assignments) == k


@given(records, needed, temperatures)
def test_no_expert_keeps_a_share_under_the_least(
    scores: dict[str, dict[str, int]], need: Skills, temperature: float
) -> None:
    # with at most eight experts the best share is at least 1/8, so somebody always stays
    shares = PublishedRecruiter(profiles(scores), temperature, min_share=0.125).shares(need)
    assert min(shares.values()) >= 0.125 - 1e-9


def test_the_rule_by_hand() -> None:
    # totals 3 + 1, 1 + 2 and 1: γ = 4/8, 3/8 and 1/8; S on sums = 3, 1 and 1; γS = 1.5, 0.375 and 0.125
    # over T = 0.5: e^3 = 20.0855, e^0.75 = 2.1170, e^0.25 = 1.2840, together 23.4865: 85.5 %, 9.0 % and 5.5 %
    scores = {"a": {"sums": 3, "dates": 1}, "b": {"sums": 1, "dates": 2}, "c": {"sums": 1}}
    shares = PublishedRecruiter(profiles(scores)).shares(skills("q", "sums"))
    assert shares == pytest.approx({"a": 0.8552, "b": 0.0901, "c": 0.0547}, abs=1e-4)


def test_the_rule_by_hand_where_an_expert_is_trimmed() -> None:
    # totals 5, 3 and 2: γS = 2.5, 0.6 and 0; e^5 = 148.413, e^1.2 = 3.3201, e^0 = 1, together 152.733
    # 97.2 %, 2.2 % and 0.7 %: only a has 5 %
    scores = {"a": {"sums": 5}, "b": {"sums": 2, "dates": 1}, "c": {"dates": 2}}
    assert PublishedRecruiter(profiles(scores)).shares(skills("q", "sums")) == {"a": 1.0}
    untrimmed = PublishedRecruiter(profiles(scores), min_share=0).shares(skills("q", "sums"))
    assert untrimmed == pytest.approx({"a": 0.97172, "b": 0.02174, "c": 0.00655}, abs=1e-5)


def test_an_expert_under_the_least_share_is_dropped_and_its_share_goes_to_the_others() -> None:
    scores = {"a": {"sums": 6}, "b": {"sums": 5}, "c": {"sums": 1}}
    everyone = PublishedRecruiter(profiles(scores), min_share=0).shares(skills("q", "sums"))
    trimmed = PublishedRecruiter(profiles(scores), min_share=0.05).shares(skills("q", "sums"))
    assert everyone["c"] < 0.05
    assert list(trimmed) == ["a", "b"]
    assert trimmed["a"] / trimmed["b"] == pytest.approx(everyone["a"] / everyone["b"])


def test_where_nobody_has_the_least_share_everybody_stays() -> None:
    scores = {name: {"sums": 1} for name in "abc"}
    shares = PublishedRecruiter(profiles(scores), min_share=0.5).shares(skills("q", "sums"))
    assert shares == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_scores_on_all_needed_skills_add_up() -> None:
    # totals 3 and 3: competence 1/2 each; scores on both skills 3 and 1: relevance 1.5 and 0.5; temperature 1
    scores = {"a": {"sums": 2, "dates": 1}, "b": {"sums": 1, "sorting": 2}}
    shares = PublishedRecruiter(profiles(scores), temperature=1, min_share=0).shares(skills("q", "sums", "dates"))
    assert shares == pytest.approx({"a": 1 / (1 + math.exp(-1)), "b": 1 / (1 + math.exp(1))})


def test_a_negative_total_shifts_all_totals_so_that_the_lowest_has_no_competence() -> None:
    # totals 5 and -1, shifted to 6 and 0: competence 1 and 0; relevance 2 and 0; temperature 1
    scores = {"a": {"sums": 2, "dates": 3}, "b": {"sums": 4, "dates": -5}}
    shares = PublishedRecruiter(profiles(scores), temperature=1, min_share=0).shares(skills("q", "sums"))
    assert shares == pytest.approx({"a": 1 / (1 + math.exp(-2)), "b": 1 / (1 + math.exp(2))})


def test_scores_that_tell_nobody_apart_give_equal_shares() -> None:
    scores = {"a": {"sums": 0}, "b": {"sums": 0}}
    assert PublishedRecruiter(profiles(scores)).shares(skills("q", "sums")) == {"a": 0.5, "b": 0.5}


def test_answer_formats_and_similarities_count_for_nothing() -> None:
    plain = pool(record("a", {"sums": (4, 1)}), record("b", {"sums": (2, 1)}))
    with_formats = pool(record("a", {"sums": (4, 1), NUMBER: (0, 9)}), record("b", {"sums": (2, 1), NUMBER: (9, 0)}))
    shares = PublishedRecruiter(plain).shares(needs(sums=0.4))
    assert PublishedRecruiter(with_formats).shares(needs("q", (NUMBER,), sums=0.9)) == shares


def test_another_seed_or_another_text_draws_other_experts() -> None:
    recruiter = PublishedRecruiter(profiles({name: {"sums": 1} for name in "abcdefgh"}))

    def drawn(text: str, seed: int) -> list[str]:
        return experts_of(asked_alone(recruiter, skills("q", "sums"), 10, seed, text))

    assert drawn("x", 0) != drawn("x", 1)
    assert drawn("x", 0) != drawn("y", 0)


def test_experts_are_drawn_with_replacement_as_often_as_their_shares_say() -> None:
    scores = {"a": {"sums": 4, "dates": 2}, "b": {"sums": 3, "dates": 1}}
    found = asked_alone(PublishedRecruiter(profiles(scores), temperature=2), skills("q", "sums"), 20_000)
    assert 0.5 < found.shares["a"] < 0.8
    assert Counter(experts_of(found))["a"] / 20_000 == pytest.approx(found.shares["a"], abs=0.02)


@pytest.mark.parametrize("need", [skills("q"), skills("q", "cooking")])
def test_a_query_of_which_no_skill_is_known_goes_to_the_fallback(need: Skills) -> None:
    scores = profiles({"a": {"sums": 9}, "b": {"dates": 9}})
    found = asked_alone(PublishedRecruiter(scores, fallback="b"), need)
    assert found.shares == {"b": 1.0}
    assert [(a.expert, a.slot) for a in found.assignments] == [("b", 0), ("b", 1), ("b", 2)]


def test_without_a_fallback_a_query_of_no_known_skill_may_go_to_anybody() -> None:
    scores = profiles({"a": {"sums": 9}, "b": {"dates": 9}, "c": {}})
    assert PublishedRecruiter(scores).shares(skills("q", "cooking")) == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_one_known_skill_is_enough_for_the_records_to_count() -> None:
    scores = profiles({"a": {"sums": 9}, "b": {"dates": 1}})
    shares = PublishedRecruiter(scores, fallback="b").shares(skills("q", "cooking", "sums"))
    assert next(iter(shares)) == "a"


def test_an_explanation_weighs_every_known_skill_alike_and_says_who_was_too_small() -> None:
    recruiter = PublishedRecruiter(pool(record("a", {"sums": (8, 1), "dates": (3, 0)}), record("b", {"sums": (1, 4)})))
    told = recruiter.explain(query("text"), needs(cooking=0.9, sums=0.8, dates=0.7), 1, 0)
    assert told.weights == {"sums": 0.5, "dates": 0.5}
    best, worst = told.standings
    assert (best.expert, best.chosen, best.why) == ("a", True, "drawn")
    assert best.evidence == {"sums": Tally(8, 1), "dates": Tally(3, 0)}
    assert best.value == pytest.approx(12 / 14)  # 11 of 12 right, after one of each
    assert (worst.expert, worst.share, worst.chosen, worst.why) == ("b", 0.0, False, "share under 5%")
    assert told.note == ""


def test_an_explanation_says_when_no_skill_is_on_record() -> None:
    told = PublishedRecruiter(profiles({"a": {"sums": 1}})).explain(query("text"), skills("q", "cooking"), 1, 0)
    assert told.note == "no skill of the question is on record"
    assert told.weights == {}
