from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.routing.recruiters.balanced import NOTE, WINDOW, BalancedRecruiter
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.types import Profiles, Recruitment, Skills
from tests.fakes import query
from tests.routing.strategies import Case, asked_alone, cases, experts_of, needs, pool, profiles_of, record, skills_of

NEARLY = pool(record("a", {"sums": (60, 40)}), record("b", {"sums": (58, 42)}), record("c", {"sums": (1, 99)}))
few = settings(max_examples=15)


def asked(inner: PosteriorRecruiter, balance: float, count: int, skills: Skills, k: int = 3) -> list[Recruitment]:
    """As many questions of different texts, which all need the same."""
    queries = [query(f"text {number}", str(number)) for number in range(count)]
    return BalancedRecruiter(inner, balance).recruit(queries, [skills] * count, k, 0)


def firsts(found: list[Recruitment]) -> Counter[str]:
    return Counter(experts_of(recruitment)[0] for recruitment in found)


@few
@given(cases(), st.sampled_from([0.0, 0.2, 0.9, 1.0]))
def test_a_question_in_the_first_window_is_recruited_as_without_balance(case: Case, balance: float) -> None:
    inner = PosteriorRecruiter(case.profiles, fallback=case.fallback)
    assert asked_alone(BalancedRecruiter(inner, balance), case.skills, case.k) == asked_alone(
        inner, case.skills, case.k
    )


@few
@given(profiles_of(), skills_of(), st.floats(0, 0.9), st.integers(1, 4))
def test_an_expert_loses_its_slot_only_to_one_whose_share_is_nearly_its_own(
    profiles: Profiles, skills: Skills, balance: float, k: int
) -> None:
    inner = PosteriorRecruiter(profiles)
    alone = asked_alone(inner, skills, k)
    for recruitment in asked(inner, balance, 4 * WINDOW, skills, k):
        chosen = experts_of(recruitment)
        assert recruitment.shares == alone.shares
        assert len(chosen) == len(set(chosen)) == len(alone.assignments)
        lost, won = set(experts_of(alone)) - set(chosen), set(chosen) - set(experts_of(alone))
        for loser in lost:
            for winner in won:
                assert alone.shares[winner] >= (1 - balance) * alone.shares[loser] - 1e-9


def test_work_is_spread_over_experts_that_are_nearly_as_good_and_not_over_one_that_is_not() -> None:
    inner = PosteriorRecruiter(NEARLY, top_p=0.01)
    assert firsts(asked(inner, 0.0, 8 * WINDOW, needs(sums=0.9))) == {"a": 8 * WINDOW}
    spread = firsts(asked(inner, 0.3, 8 * WINDOW, needs(sums=0.9)))
    assert spread["a"] >= 2 * WINDOW
    assert spread["b"] >= 2 * WINDOW
    assert "c" not in spread


def test_within_a_window_every_question_is_treated_alike() -> None:
    found = asked(PosteriorRecruiter(NEARLY, top_p=0.01), 0.3, 6 * WINDOW, needs(sums=0.9))
    for start in range(0, len(found), WINDOW):
        assert len(firsts(found[start : start + WINDOW])) == 1


def test_questions_of_the_same_text_share_one_decision() -> None:
    inner = PosteriorRecruiter(NEARLY, top_p=0.01)
    texts = ["first", *(f"text {number}" for number in range(5 * WINDOW)), "first"]
    queries = [query(text, str(number)) for number, text in enumerate(texts)]
    found = BalancedRecruiter(inner, 0.5).recruit(queries, [needs(sums=0.9)] * len(queries), 3, 0)
    assert [recruitment.query_id for recruitment in found] == [each.id for each in queries]
    assert experts_of(found[-1]) == experts_of(found[0])
    assert {assignment.query_id for assignment in found[-1].assignments} == {queries[-1].id}


@pytest.mark.parametrize("balance", [0.3, 0.9])
def test_the_budget_of_a_question_still_holds(balance: float) -> None:
    tokens = {"a": 100.0, "b": 100.0, "c": 150.0, "d": 150.0}
    profiles = pool(*(record(name, {"sums": (50, 50)}, tokens=cost) for name, cost in tokens.items()))
    inner = PosteriorRecruiter(profiles, top_p=1.0, budget=200)
    for recruitment in asked(inner, balance, 4 * WINDOW, needs(sums=0.9), k=2):
        assert sum(tokens[expert] for expert in experts_of(recruitment)) <= 200


def test_an_explanation_is_that_of_the_inner_recruiter() -> None:
    inner = PosteriorRecruiter(NEARLY)
    told = BalancedRecruiter(inner, 0.5).explain(query("text"), needs(sums=0.9), 2, 0)
    assert told == replace(inner.explain(query("text"), needs(sums=0.9), 2, 0), note=NOTE)


def test_an_empty_batch_recruits_nobody() -> None:
    assert BalancedRecruiter(PosteriorRecruiter(NEARLY), 0.5).recruit([], [], 3, 0) == []
