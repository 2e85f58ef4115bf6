from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.policy import Policy
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.recruiting import recruit
from symmoe.types import ExpertProfile, Profiles, SkillMatch, Skills, Tally
from tests.fakes import query
from tests.routing.strategies import (
    NUMBERS,
    RULES,
    TOPICS,
    Case,
    Rule,
    asked_alone,
    cases,
    experts_of,
    needs,
    pool,
    profiles_of,
    record,
    skills_of,
)

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def given_few(**made_up: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return lambda test: settings(max_examples=20)(given(**made_up)(test))


def shuffled(profiles: Profiles, order: st.DataObject) -> Profiles:
    names = order.draw(st.permutations(list(profiles.experts)))
    return replace(profiles, experts={name: profiles.experts[name] for name in names})


def close(shares: Mapping[str, float]) -> Mapping[str, float]:
    return pytest.approx(shares, abs=1e-6)


@every_rule
@given_few(case=cases())
def test_the_same_records_and_seed_give_the_same_recruitment(rule: Rule, case: Case) -> None:
    policy = Policy(case.k)
    once = recruit(lambda policy: case.recruiter(rule), [case.query], [case.skills], [policy], case.seed)
    assert recruit(lambda policy: case.recruiter(rule), [case.query], [case.skills], [policy], case.seed) == once


@every_rule
@given_few(case=cases(), order=st.data())
def test_the_order_of_the_experts_changes_no_share(rule: Rule, case: Case, order: st.DataObject) -> None:
    first = asked_alone(case.recruiter(rule), case.skills).shares
    assert asked_alone(case.recruiter(rule, shuffled(case.profiles, order)), case.skills).shares == close(first)


@given_few(case=cases(), order=st.data())
def test_the_order_of_the_experts_changes_who_is_asked_only_among_experts_that_are_tied(
    case: Case, order: st.DataObject
) -> None:
    first = asked_alone(case.recruiter(PosteriorRecruiter), case.skills, case.k)
    second = asked_alone(case.recruiter(PosteriorRecruiter, shuffled(case.profiles, order)), case.skills, case.k)
    for one, other in zip(experts_of(first), experts_of(second), strict=True):
        assert one == other or first.shares[one] == pytest.approx(first.shares[other], abs=1e-9)


@every_rule
@given_few(case=cases())
def test_shares_are_ordered_and_sum_to_one_experts_are_the_pools_and_their_slots_are_numbered_from_zero(
    rule: Rule, case: Case
) -> None:
    found = asked_alone(case.recruiter(rule), case.skills, case.k, case.seed)
    shares = list(found.shares.values())
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert min(shares) >= 0
    assert shares == sorted(shares, reverse=True)
    assert 1 <= len(found.assignments) <= case.k
    assert set(found.shares) <= set(case.profiles.experts)
    assert set(experts_of(found)) <= set(found.shares)
    assert {found.query_id, *(assignment.query_id for assignment in found.assignments)} == {"q"}
    slots: dict[str, list[int]] = {}
    for assignment in found.assignments:
        slots.setdefault(assignment.expert, []).append(assignment.slot)
    assert all(numbers == list(range(len(numbers))) for numbers in slots.values())


@every_rule
@given_few(profiles=profiles_of(), k=st.integers(1, 5))
def test_a_query_that_needs_no_skill_is_served(rule: Rule, profiles: Profiles, k: int) -> None:
    found = asked_alone(rule(profiles), Skills("q", ()), k)
    assert 1 <= len(found.assignments) <= k
    assert set(experts_of(found)) <= set(profiles.experts)


@every_rule
@pytest.mark.parametrize("needed", [needs(), needs("q", NUMBERS, sums=0.8)], ids=["needs nothing", "needs sums"])
def test_a_pool_that_was_never_asked_anything_serves_with_anybody(rule: Rule, needed: Skills) -> None:
    profiles = Profiles({name: ExpertProfile(name, {}, Tally(0, 0)) for name in "abc"})
    found = asked_alone(rule(profiles), needed, 2)
    assert found.shares == pytest.approx(dict.fromkeys("abc", 1 / 3))
    assert 1 <= len(found.assignments) <= 2
    assert len(rule(profiles).explain(query("text"), needed, 2, 0).standings) == 3


@every_rule
def test_an_empty_batch_recruits_nobody(rule: Rule) -> None:
    assert recruit(lambda policy: rule(pool(record("a", {"sums": (1, 0)}))), [], [], [], 0) == []


@every_rule
@given_few(case=cases(), around=st.lists(skills_of(), min_size=1, max_size=4), data=st.data())
def test_a_recruitment_does_not_depend_on_its_neighbours(
    rule: Rule, case: Case, around: list[Skills], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(around)))
    queries = [query(f"neighbour {number}", str(number)) for number in range(len(around))]
    recruiter = case.recruiter(rule)
    batch = recruiter.recruit(
        [*queries[:place], case.query, *queries[place:]],
        [*around[:place], case.skills, *around[place:]],
        case.k,
        case.seed,
    )
    (alone,) = recruiter.recruit([case.query], [case.skills], case.k, case.seed)
    assert batch[place].assignments == alone.assignments
    assert batch[place].shares == close(alone.shares)


@every_rule
def test_a_neighbour_of_many_topics_does_not_change_the_last_digit_of_a_share(rule: Rule) -> None:
    spread = {topic: (3.0 * place + 1, 10.0 - 2 * place) for place, topic in enumerate(TOPICS)}
    profiles = pool(record("a", spread), record("b", {"sums": (4, 3), "maps": (1, 7)}), record("c", {"dates": (5, 2)}))
    many = Skills("many", tuple(SkillMatch(f"topic {number}", 0.5) for number in range(12)))
    recruiter = rule(profiles)
    for step in range(40):
        cosines = [0.7 - 0.0011 * step * place for place in range(5)]
        needed = Skills("q", tuple(map(SkillMatch, TOPICS, cosines)), NUMBERS)
        first, _ = recruiter.recruit([query("text"), query("many")], [needed, many], 3, 0)
        assert first == asked_alone(recruiter, needed)


@every_rule
@given_few(case=cases(), asked=st.permutations([("x", "1"), ("y", "2"), ("x", "3"), ("z", "4"), ("y", "5")]))
def test_equal_texts_get_equal_experts_whatever_their_ids_and_their_order(
    rule: Rule, case: Case, asked: list[tuple[str, str]]
) -> None:
    recruiter = case.recruiter(rule)
    found = recruiter.recruit(
        [query(text, ident) for text, ident in asked],
        [replace(case.skills, query_id=ident) for _, ident in asked],
        case.k,
        case.seed,
    )
    assert [recruitment.query_id for recruitment in found] == [ident for _, ident in asked]
    drawn: dict[str, list[list[str]]] = {}
    for (text, _), recruitment in zip(asked, found, strict=True):
        drawn.setdefault(text, []).append(experts_of(recruitment))
    assert all(each == same[0] for same in drawn.values() for each in same)


@every_rule
@given_few(case=cases(most=1))
def test_a_pool_of_one_expert_always_asks_it(rule: Rule, case: Case) -> None:
    (name,) = case.profiles.experts
    found = asked_alone(case.recruiter(rule), case.skills, case.k, case.seed)
    assert found.shares == {name: 1.0}
    assert set(experts_of(found)) == {name}


@every_rule
@given_few(case=cases())
def test_an_explanation_agrees_with_the_recruitment(rule: Rule, case: Case) -> None:
    recruiter = case.recruiter(rule)
    (found,) = recruiter.recruit([case.query], [case.skills], case.k, case.seed)
    told = recruiter.explain(case.query, case.skills, case.k, case.seed)
    assert (told.query_id, told.recruiter) == ("q", rule.name)
    assert {standing.expert for standing in told.standings if standing.chosen} == set(experts_of(found))
    assert sorted(standing.expert for standing in told.standings) == sorted(case.profiles.experts)
    assert {s.expert: s.share for s in told.standings if s.expert in found.shares} == close(found.shares)
    assert [s.share for s in told.standings] == sorted((s.share for s in told.standings), reverse=True)


@every_rule
@given_few(case=cases())
def test_an_explanation_gives_every_value_inside_its_interval_and_costs_that_only_grow(rule: Rule, case: Case) -> None:
    told = case.recruiter(rule).explain(case.query, case.skills, case.k, case.seed)
    for standing in told.standings:
        assert 0 <= standing.low <= standing.value <= standing.high <= 1
        assert standing.tokens == pytest.approx(case.profiles.experts[standing.expert].tokens)
        assert standing.why
    assert list(told.costs) == sorted(told.costs)
    assert not told.weights or sum(told.weights.values()) == pytest.approx(1, abs=1e-3)


@every_rule
@given_few(case=cases())
def test_an_explanation_shows_the_tallies_of_every_skill_that_counted(rule: Rule, case: Case) -> None:
    told = case.recruiter(rule).explain(case.query, case.skills, case.k, case.seed)
    for standing in told.standings:
        known = case.profiles.experts[standing.expert].skills
        assert standing.evidence == {skill: known.get(skill, Tally(0, 0)) for skill in standing.evidence}
        assert set(standing.evidence) == set(told.weights) - {"any question"}
