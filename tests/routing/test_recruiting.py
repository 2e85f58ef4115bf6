from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.routing.recruiting import SymbolicRecruiter, recruit
from tests.fakes import profiles, query, skills

SKILLS = ["sums", "spanish", "sorting", "dates"]
scores = st.dictionaries(st.sampled_from(SKILLS), st.integers(-30, 30))
records = st.dictionaries(st.sampled_from("abcdefgh"), scores, min_size=1)
needs = st.lists(st.sampled_from(SKILLS), unique=True)
temperatures = st.floats(0.05, 5)
least_shares = st.floats(0, 0.4)
seeds = st.integers(0, 999_999)


@given(records, needs, st.integers(1, 12), seeds, temperatures, least_shares)
def test_every_query_is_given_exactly_k_slots_of_experts_with_a_share(
    record: dict[str, dict[str, int]], need: list[str], k: int, seed: int, temperature: float, least: float
) -> None:
    recruiter = SymbolicRecruiter(profiles(record), temperature, least)
    (found,) = recruit(recruiter, [query("text")], [skills("q", *need)], k, seed)
    assert found.query_id == "q"
    assert len(found.assignments) == k
    assert {assignment.expert for assignment in found.assignments} <= set(found.shares)
    assert {assignment.query_id for assignment in found.assignments} == {"q"}


@given(records, needs, temperatures, least_shares)
def test_shares_sum_to_one_and_come_best_first(
    record: dict[str, dict[str, int]], need: list[str], temperature: float, least: float
) -> None:
    shares = SymbolicRecruiter(profiles(record), temperature, least).shares(skills("q", *need))
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


@given(records, needs, temperatures)
def test_no_expert_keeps_a_share_under_the_least(
    record: dict[str, dict[str, int]], need: list[str], temperature: float
) -> None:
    # with at most eight experts the best share is at least 1/8, so somebody always stays
    shares = SymbolicRecruiter(profiles(record), temperature, min_share=0.125).shares(skills("q", *need))
    assert min(shares.values()) >= 0.125 - 1e-9


def test_an_expert_under_the_least_share_is_dropped_and_its_share_goes_to_the_others() -> None:
    record = {"a": {"sums": 6}, "b": {"sums": 5}, "c": {"sums": 1}}
    everyone = SymbolicRecruiter(profiles(record), min_share=0).shares(skills("q", "sums"))
    trimmed = SymbolicRecruiter(profiles(record), min_share=0.05).shares(skills("q", "sums"))
    assert everyone["c"] < 0.05
    assert list(trimmed) == ["a", "b"]
    assert trimmed["a"] / trimmed["b"] == pytest.approx(everyone["a"] / everyone["b"])


def test_where_nobody_has_the_least_share_everybody_stays() -> None:
    record = {name: {"sums": 1} for name in "abc"}
    shares = SymbolicRecruiter(profiles(record), min_share=0.5).shares(skills("q", "sums"))
    assert shares == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_shares_are_the_softmax_of_competence_times_score() -> None:
    # totals 6 and 2: competence 3/4 and 1/4; scores on sums 4 and 3: relevance 3 and 3/4; temperature 1/2
    record = {"a": {"sums": 4, "dates": 2}, "b": {"sums": 3, "dates": -1}}
    shares = SymbolicRecruiter(profiles(record), temperature=0.5, min_share=0).shares(skills("q", "sums"))
    whole = math.exp(3 / 0.5) + math.exp(0.75 / 0.5)
    assert shares == pytest.approx({"a": math.exp(3 / 0.5) / whole, "b": math.exp(0.75 / 0.5) / whole})


def test_scores_on_all_needed_skills_add_up() -> None:
    # totals 3 and 3: competence 1/2 each; scores on both skills 3 and 1: relevance 1.5 and 0.5; temperature 1
    record = {"a": {"sums": 2, "dates": 1}, "b": {"sums": 1, "sorting": 2}}
    shares = SymbolicRecruiter(profiles(record), temperature=1, min_share=0).shares(skills("q", "sums", "dates"))
    assert shares == pytest.approx({"a": 1 / (1 + math.exp(-1)), "b": 1 / (1 + math.exp(1))})


def test_a_negative_total_shifts_all_totals_so_that_the_lowest_has_no_competence() -> None:
    # totals 5 and -1, shifted to 6 and 0: competence 1 and 0; relevance 2 and 0; temperature 1
    record = {"a": {"sums": 2, "dates": 3}, "b": {"sums": 4, "dates": -5}}
    shares = SymbolicRecruiter(profiles(record), temperature=1, min_share=0).shares(skills("q", "sums"))
    assert shares == pytest.approx({"a": 1 / (1 + math.exp(-2)), "b": 1 / (1 + math.exp(2))})


def test_scores_that_tell_nobody_apart_give_equal_shares() -> None:
    record = {"a": {"sums": 0}, "b": {"sums": 0}}
    assert SymbolicRecruiter(profiles(record)).shares(skills("q", "sums")) == {"a": 0.5, "b": 0.5}


@given(records, seeds, st.permutations([("x", "1"), ("y", "2"), ("x", "3"), ("z", "4"), ("y", "5")]))
def test_equal_texts_under_one_seed_get_equal_experts_whatever_the_neighbours_and_the_order(
    record: dict[str, dict[str, int]], seed: int, asked: list[tuple[str, str]]
) -> None:
    recruiter = SymbolicRecruiter(profiles(record))
    queries = [query(text, ident) for text, ident in asked]
    found = recruiter.recruit(queries, [skills(ident, "sums") for _, ident in asked], 5, seed)
    assert [r.query_id for r in found] == [ident for _, ident in asked]
    alone = {
        text: recruiter.recruit([query(text, "alone")], [skills("alone", "sums")], 5, seed)[0]
        for text in ("x", "y", "z")
    }
    for (text, _), recruitment in zip(asked, found, strict=True):
        drawn = [(a.expert, a.slot) for a in recruitment.assignments]
        assert drawn == [(a.expert, a.slot) for a in alone[text].assignments]
        assert recruitment.shares == alone[text].shares


def test_another_seed_or_another_text_draws_other_experts() -> None:
    recruiter = SymbolicRecruiter(profiles({name: {"sums": 1} for name in "abcdefgh"}))

    def drawn(text: str, seed: int) -> list[str]:
        return [a.expert for a in recruiter.recruit([query(text)], [skills("q", "sums")], 10, seed)[0].assignments]

    assert drawn("x", 0) != drawn("x", 1)
    assert drawn("x", 0) != drawn("y", 0)


def test_experts_are_drawn_as_often_as_their_shares_say() -> None:
    record = {"a": {"sums": 4, "dates": 2}, "b": {"sums": 3, "dates": 1}}
    recruiter = SymbolicRecruiter(profiles(record), temperature=2, min_share=0)
    (found,) = recruiter.recruit([query("text")], [skills("q", "sums")], 20_000, 0)
    counts = Counter(assignment.expert for assignment in found.assignments)
    assert 0.5 < found.shares["a"] < 0.8
    assert counts["a"] / 20_000 == pytest.approx(found.shares["a"], abs=0.02)


@given(records, needs, st.integers(1, 12), seeds)
def test_slots_number_the_repeated_draws_of_an_expert_from_zero(
    record: dict[str, dict[str, int]], need: list[str], k: int, seed: int
) -> None:
    (found,) = SymbolicRecruiter(profiles(record)).recruit([query("text")], [skills("q", *need)], k, seed)
    slots: dict[str, list[int]] = defaultdict(list)
    for assignment in found.assignments:
        slots[assignment.expert].append(assignment.slot)
    assert all(numbers == list(range(len(numbers))) for numbers in slots.values())


@pytest.mark.parametrize("need", [(), ("cooking",)])
def test_a_query_of_which_no_skill_is_known_goes_to_the_fallback(need: tuple[str, ...]) -> None:
    record = profiles({"a": {"sums": 9}, "b": {"dates": 9}})
    (found,) = SymbolicRecruiter(record, fallback="b").recruit([query("text")], [skills("q", *need)], 3, 0)
    assert found.shares == {"b": 1.0}
    assert [(a.expert, a.slot) for a in found.assignments] == [("b", 0), ("b", 1), ("b", 2)]


def test_without_a_fallback_a_query_of_no_known_skill_may_go_to_anybody() -> None:
    record = profiles({"a": {"sums": 9}, "b": {"dates": 9}, "c": {}})
    assert SymbolicRecruiter(record).shares(skills("q", "cooking")) == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_one_known_skill_is_enough_for_the_records_to_count() -> None:
    record = profiles({"a": {"sums": 9}, "b": {"dates": 1}})
    shares = SymbolicRecruiter(record, fallback="b").shares(skills("q", "cooking", "sums"))
    assert next(iter(shares)) == "a"
