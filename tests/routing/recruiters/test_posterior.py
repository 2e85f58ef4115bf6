from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from symmoe.routing import tallies as evidence
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.tallies import interval, posterior_of, tallies_of, temperature_of
from symmoe.types import ExpertProfile, Explanation, Profiles, SkillMatch, Skills, Tally
from tests.fakes import query
from tests.routing.strategies import (
    CODE,
    NUMBER,
    NUMBERS,
    THREE,
    Case,
    asked_alone,
    cases,
    experts_of,
    halves,
    needs,
    pool,
    profiles_of,
    record,
    skills_of,
)

few = settings(max_examples=30)


@contextmanager
def topic_strength(answers: float) -> Iterator[None]:
    """A topic's prior counts as so many answers, whatever the spread of the topics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "TOPIC_STRENGTH", (answers, answers))
        yield


def value_of(profiles: Profiles, expert: str, skills: Skills) -> float:
    return float(PosteriorRecruiter(profiles).values([skills])[0, list(profiles.experts).index(expert)])


def with_record(profiles: Profiles, added: ExpertProfile) -> Profiles:
    return replace(profiles, experts={**profiles.experts, added.expert: added})


def test_a_value_is_the_mean_of_posteriors_weighted_by_nearness() -> None:
    profiles = pool(record("a", {"sums": (9, 1), "dates": (1, 9), NUMBER: (5, 5)}))
    posterior = posterior_of(tallies_of(profiles))
    sums, dates, number = (float(posterior.mean[posterior.rows[skill], 0]) for skill in ("sums", "dates", NUMBER))
    raised = [math.exp(30 * 0.5), math.exp(30 * 0.45), math.exp(30 * 0.4)]  # the facet counts as a cosine of 0.4
    by_hand = (raised[0] * sums + raised[1] * dates + raised[2] * number) / sum(raised)
    assert value_of(profiles, "a", needs("q", NUMBERS, sums=0.5, dates=0.45)) == pytest.approx(by_hand, abs=1e-5)


def test_a_topic_that_nobody_was_asked_about_stands_for_the_facet() -> None:
    by_facet = value_of(THREE, "fair", needs("q", NUMBERS))
    assert value_of(THREE, "fair", needs("q", NUMBERS, cooking=0.9)) == pytest.approx(by_facet)


def test_without_topics_and_facets_on_record_the_value_is_the_accuracy_expected_anywhere() -> None:
    anywhere = posterior_of(tallies_of(THREE)).anywhere
    assert PosteriorRecruiter(THREE).values([needs()])[0] == pytest.approx(anywhere)


def test_the_value_of_an_expert_that_was_always_right_is_never_above_one() -> None:
    recruiter = PosteriorRecruiter(pool(record("a", {"sums": (9, 0), NUMBER: (9, 0)})))
    asked = [needs(str(n), NUMBERS, sums=0.3 + n / 700, cooking=0.3, chess=0.31) for n in range(100)]
    assert recruiter.values(asked).max() <= 1


def test_counted_tallies_do_as_well_as_profiles() -> None:
    by_profiles = asked_alone(PosteriorRecruiter(THREE), needs("q", NUMBERS, sums=0.8))
    assert asked_alone(PosteriorRecruiter(tallies_of(THREE)), needs("q", NUMBERS, sums=0.8)) == by_profiles


def test_the_best_expert_comes_first_and_shares_follow_the_values() -> None:
    found = asked_alone(PosteriorRecruiter(THREE), needs("q", NUMBERS, sums=0.8))
    assert list(found.shares) == ["good", "fair", "poor"]
    assert experts_of(found)[0] == "good"


@few
@given(cases())
def test_no_expert_is_recruited_twice(case: Case) -> None:
    chosen = experts_of(asked_alone(PosteriorRecruiter(case.profiles, top_p=1.0), case.skills, case.k))
    assert len(chosen) == len(set(chosen))


@few
@given(cases(), st.integers(0, 99))
def test_nothing_is_drawn(case: Case, other: int) -> None:
    recruiter = PosteriorRecruiter(case.profiles)
    assert asked_alone(recruiter, case.skills, case.k, case.seed) == asked_alone(recruiter, case.skills, case.k, other)


@few
@given(cases(), st.floats(0.05, 1.0))
def test_experts_are_asked_until_their_shares_reach_top_p(case: Case, top_p: float) -> None:
    found = asked_alone(PosteriorRecruiter(case.profiles, top_p), case.skills, case.k)
    chosen = experts_of(found)
    assert chosen == list(found.shares)[: len(chosen)]
    assert sum(found.shares[expert] for expert in chosen[:-1]) < top_p
    assert len(chosen) == case.k or sum(found.shares[expert] for expert in chosen) >= top_p - 1e-9


def test_an_expert_that_dominates_is_asked_alone() -> None:
    profiles = pool(record("right", {"sums": (200, 0)}), *(record(name, {"sums": (0, 200)}) for name in "abcd"))
    found = asked_alone(PosteriorRecruiter(profiles), needs(sums=0.8), k=5)
    assert experts_of(found) == ["right"]
    assert found.shares["right"] > 0.99


def test_experts_that_are_alike_are_asked_until_half_of_them_are() -> None:
    profiles = pool(*(record(name, {"sums": (5, 5)}) for name in "abcd"))
    found = asked_alone(PosteriorRecruiter(profiles), needs(sums=0.8), k=4)
    assert experts_of(found) == ["a", "b"]
    assert found.shares == pytest.approx(dict.fromkeys("abcd", 0.25))


@few
@given(cases(), st.sampled_from([10.0, 40.0, 95.0, 130.5, 1000.0]), st.floats(0.05, 1.0))
def test_a_budget_bounds_the_expected_tokens_unless_even_the_cheapest_expert_exceeds_it(
    case: Case, budget: float, top_p: float
) -> None:
    recruiter = PosteriorRecruiter(case.profiles, top_p, case.fallback, budget)
    chosen = experts_of(asked_alone(recruiter, case.skills, case.k))
    tokens = {name: profile.tokens for name, profile in case.profiles.experts.items()}
    spent = sum(tokens[expert] for expert in chosen)
    assert spent <= budget or (len(chosen) == 1 and spent == min(tokens.values()) > budget)


@few
@given(cases(), st.sampled_from([0, 1, 7]))
def test_a_budget_for_everybody_changes_nothing(case: Case, more: float) -> None:
    budget = sum(profile.tokens for profile in case.profiles.experts.values()) + more
    free = asked_alone(PosteriorRecruiter(case.profiles), case.skills, case.k)
    assert asked_alone(PosteriorRecruiter(case.profiles, budget=budget), case.skills, case.k) == free


@pytest.mark.parametrize(
    ("budget", "chosen"), [(400, ["good", "fair"]), (399, ["good"]), (299, ["fair", "poor"]), (49, ["poor"])]
)
def test_the_best_experts_within_the_budget_are_asked(budget: float, chosen: list[str]) -> None:
    recruiter = PosteriorRecruiter(THREE, top_p=1.0, budget=budget)
    assert experts_of(asked_alone(recruiter, needs("q", NUMBERS, sums=0.8), k=2)) == chosen


@few
@given(profiles_of(), st.data())
def test_the_fallback_comes_first_where_no_topic_is_on_record(profiles: Profiles, data: st.DataObject) -> None:
    fallback = data.draw(st.sampled_from(sorted(profiles.experts)))
    strange = data.draw(skills_of())
    unknown = replace(strange, matches=tuple(SkillMatch(f"no {m.skill}", m.similarity) for m in strange.matches))
    assert experts_of(asked_alone(PosteriorRecruiter(profiles, fallback=fallback), unknown))[0] == fallback


@pytest.mark.parametrize(
    ("topics", "first"),
    [
        ({}, "poor"),
        ({"cooking": 0.9}, "poor"),
        ({"cooking": 0.8, "sums": 0.6}, "poor"),
        ({"sums": 0.8, "cooking": 0.6}, "good"),
        ({"sums": 0.8}, "good"),
    ],
)
def test_the_fallback_comes_first_only_where_most_of_the_topics_are_on_nobodys_record(
    topics: dict[str, float], first: str
) -> None:
    recruiter = PosteriorRecruiter(THREE, fallback="poor")
    assert experts_of(asked_alone(recruiter, needs("q", NUMBERS, **topics)))[0] == first


def test_a_fallback_over_the_budget_is_not_asked() -> None:
    recruiter = PosteriorRecruiter(THREE, fallback="good", budget=200)
    assert "good" not in experts_of(asked_alone(recruiter, needs("q", NUMBERS)))


@few
@given(profiles_of(), skills_of(), st.sampled_from([1.0, 10.0, 100.0]))
def test_a_newcomer_that_was_always_wrong_never_changes_the_first_expert(
    profiles: Profiles, skills: Skills, strength: float
) -> None:
    # with topics of equal strength before and after: how far topics are believed is estimated from the whole pool
    with topic_strength(strength):
        before = asked_alone(PosteriorRecruiter(profiles), skills)
        asked = {skill for each in profiles.experts.values() for skill in each.skills}
        wrong = ExpertProfile("newcomer", {skill: Tally(0, 20) for skill in asked}, Tally(0, 100))
        after = asked_alone(PosteriorRecruiter(with_record(profiles, wrong)), skills)
    assert experts_of(after)[0] == experts_of(before)[0]


@few
@given(profiles_of(least=2), skills_of(), st.data())
def test_a_newcomer_that_was_always_wrong_leaves_an_expert_first_that_was_never_behind(
    profiles: Profiles, skills: Skills, data: st.DataObject
) -> None:
    asked = {skill for each in profiles.experts.values() for skill in each.skills}
    counts = {skill: data.draw(st.integers(1, 30)) for skill in sorted(asked)}
    records = {}
    for place, name in enumerate(profiles.experts):
        right = {skill: (n if place == 0 else data.draw(st.integers(0, n - 1))) for skill, n in counts.items()}
        tallies = {skill: Tally(n, counts[skill] - n) for skill, n in right.items()}
        records[name] = ExpertProfile(name, tallies, Tally(sum(right.values()), sum(counts.values())))
    wrong = ExpertProfile("newcomer", {skill: Tally(0, n) for skill, n in counts.items()}, Tally(0, 100))
    leader = next(iter(records))
    for pool_of in (replace(profiles, experts=records), replace(profiles, experts={**records, "newcomer": wrong})):
        assert experts_of(asked_alone(PosteriorRecruiter(pool_of), skills))[0] == leader


@few
@given(profiles_of(), skills_of(), halves, st.sampled_from([1.0, 10.0, 100.0]), st.data())
def test_more_right_answers_on_a_matched_topic_never_lower_an_experts_value(
    profiles: Profiles, skills: Skills, more: float, strength: float, data: st.DataObject
) -> None:
    assume(skills.matches)
    topic = data.draw(st.sampled_from([match.skill for match in skills.matches]))
    expert = next(iter(profiles.experts))
    known = profiles.experts[expert]
    asked = known.skills.get(topic, Tally(0, 0))
    before = with_record(profiles, replace(known, skills={**known.skills, topic: asked}))
    better = replace(known, skills={**known.skills, topic: Tally(asked.right + more, asked.wrong)})
    with topic_strength(strength):
        assert value_of(with_record(profiles, better), expert, skills) >= value_of(before, expert, skills) - 1e-6


def test_an_expert_asked_little_is_judged_by_its_format_and_one_asked_much_by_the_topic() -> None:
    little = pool(record("a", {"sums": (0, 1), NUMBER: (900, 100)}), parents={"sums": NUMBER})
    much = pool(record("a", {"sums": (0, 1000), NUMBER: (900, 100)}), parents={"sums": NUMBER})
    sums = needs("q", NUMBERS, sums=0.9)
    assert 0.4 < value_of(little, "a", sums) < 0.9
    assert value_of(much, "a", sums) < 0.01


def test_borrowed_answers_count_until_own_ones_outweigh_them() -> None:
    newcomer = replace(record("new", {"sums": (0, 1)}), borrowed={"sums": Tally(30, 0)})
    assert value_of(pool(newcomer), "new", needs(sums=0.9)) > 0.8
    seasoned = replace(record("new", {"sums": (0, 900)}), borrowed={"sums": Tally(30, 0)})
    assert value_of(pool(seasoned), "new", needs(sums=0.9)) < 0.1


@pytest.mark.parametrize(("first", "second"), [(60, 40), (80, 40), (55, 50), (90, 10)])
def test_at_the_temperature_experts_share_the_mass_as_they_share_the_right_answers(first: int, second: int) -> None:
    # two experts asked alike: the shares are right where the gap of their values over T is the logarithm of their ratio
    profiles = pool(record("a", {"sums": (first, 100 - first)}), record("b", {"sums": (second, 100 - second)}))
    tallies = tallies_of(profiles)
    temperature = temperature_of(tallies.right, posterior_of(tallies).mean[:-1])
    assert temperature == pytest.approx((first - second) / 100 / math.log(first / second), rel=0.05)
    shares = asked_alone(PosteriorRecruiter(profiles), needs(sums=0.99)).shares
    assert shares["a"] == pytest.approx(first / (first + second), abs=0.02)


@pytest.mark.parametrize("profiles", [pool(record("a", {"sums": (3, 4)})), pool(*(record(n, {}) for n in "ab"))])
def test_records_that_cannot_calibrate_a_temperature_have_temperature_one(profiles: Profiles) -> None:
    tallies = tallies_of(profiles)
    assert temperature_of(tallies.right, posterior_of(tallies).mean[:-1]) == 1.0


def test_many_queries_are_served_as_each_would_be_alone() -> None:
    recruiter = PosteriorRecruiter(THREE, top_p=1.0)
    asked = [needs(str(n), NUMBERS, **({"sums": 0.8} if n % 3 else {"cooking": 0.8})) for n in range(1100)]
    found = recruiter.recruit([query(s.query_id, s.query_id) for s in asked], asked, 3, 0)
    assert [recruitment.query_id for recruitment in found] == [str(n) for n in range(1100)]
    for n in (0, 511, 512, 1024, 1099):
        assert found[n].assignments == asked_alone(recruiter, asked[n]).assignments
    assert recruiter.values(asked).shape == (1100, 3)


def test_code_and_numbers_are_told_apart_by_their_formats() -> None:
    profiles = pool(
        record("coder", {CODE: (90, 10), NUMBER: (10, 90)}), record("counter", {CODE: (10, 90), NUMBER: (90, 10)})
    )
    recruiter = PosteriorRecruiter(profiles)
    assert experts_of(asked_alone(recruiter, needs("q", NUMBERS)))[0] == "counter"
    assert experts_of(asked_alone(recruiter, needs("q", (CODE,))))[0] == "coder"


def told(skills: Skills, k: int = 2, profiles: Profiles = THREE, **settings: object) -> Explanation:
    return PosteriorRecruiter(profiles, **settings).explain(query("text"), skills, k, 0)  # type: ignore[arg-type]


def test_it_says_why_each_expert_was_asked_or_not() -> None:
    standings = told(needs("q", NUMBERS, sums=0.8), top_p=0.999).standings
    assert [(standing.expert, standing.chosen, standing.why) for standing in standings] == [
        ("good", True, "best expected accuracy"),
        ("fair", True, "those before it hold under 100% of the mass"),
        ("poor", False, "the slots are filled"),
    ]


def test_it_says_that_enough_experts_were_asked() -> None:
    standings = told(needs("q", NUMBERS, sums=0.8), k=3, top_p=0.01).standings
    assert [standing.why for standing in standings] == ["best expected accuracy", "enough asked", "enough asked"]


def test_the_costs_are_those_of_asking_the_first_one_two_and_so_on() -> None:
    assert told(needs("q", NUMBERS, sums=0.8)).costs == (300, 400, 450)


def test_the_weights_are_those_of_the_topics_and_of_the_most_specific_facet_on_record() -> None:
    weights = told(needs("q", NUMBERS, sums=0.42, cooking=0.41)).weights
    assert list(weights) == ["sums", "cooking", NUMBER]
    assert weights["sums"] / weights[NUMBER] == pytest.approx(1.822, abs=0.01)  # e^(30 · 0.02)


def test_the_evidence_is_the_tally_on_each_skill_that_counted() -> None:
    best = told(needs("q", NUMBERS, sums=0.42, cooking=0.41)).standings[0]
    assert best.evidence == {"sums": Tally(90, 10), "cooking": Tally(0, 0), NUMBER: Tally(90, 10)}


def test_borrowed_answers_are_part_of_the_evidence() -> None:
    newcomer = replace(record("new", {"sums": (0, 1)}), borrowed={"sums": Tally(30, 2)})
    assert told(needs(sums=0.9), profiles=pool(newcomer)).standings[0].evidence == {"sums": Tally(30, 3)}


def test_without_any_facet_on_record_any_question_counts() -> None:
    explanation = told(needs("q", ("format: ode",), sums=0.4))
    assert explanation.weights == {"sums": 0.5, "any question": 0.5}
    assert set(explanation.standings[0].evidence) == {"sums"}


def test_it_notes_that_no_topic_is_on_record_and_what_then_counts() -> None:
    assert told(needs("q", NUMBERS, sums=0.8)).note == ""
    assert "judged by its answer format alone" in told(needs("q", NUMBERS, cooking=0.8)).note
    fallen_back = told(needs("q", NUMBERS, cooking=0.8), fallback="poor")
    assert "poor comes first" in fallen_back.note
    assert fallen_back.standings[0].why == "the pool's fallback"


def test_it_does_not_say_that_a_fallback_over_the_budget_comes_first() -> None:
    explanation = told(needs("q", NUMBERS, cooking=0.8), fallback="good", budget=200)
    assert explanation.standings[0].expert != "good"
    assert "good comes first" not in explanation.note


def test_an_expert_over_the_budget_is_told_so_and_not_that_enough_were_asked() -> None:
    standings = told(needs("q", NUMBERS, sums=0.8), k=3, budget=200).standings
    assert [standing.why for standing in standings if standing.expert == "good"] != ["enough asked"]


def test_an_interval_narrows_with_the_answers_behind_it() -> None:
    widths = []
    for asked in (10, 100, 1000):
        profiles = pool(record("a", {"sums": (0.7 * asked, 0.3 * asked)}))
        standing = told(needs(sums=0.9), profiles=profiles).standings[0]
        widths.append(standing.high - standing.low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_a_question_of_one_topic_on_record_has_the_interval_of_its_posterior() -> None:
    posterior = posterior_of(tallies_of(THREE))
    row = posterior.rows["sums"]
    low, high = interval(float(posterior.mean[row, 0]), 100 + float(posterior.worth[row]))
    standing = told(needs("q", NUMBERS, sums=0.99)).standings[0]
    assert (standing.low, standing.high) == pytest.approx((low, high), abs=1e-3)


def test_topics_that_nobody_was_asked_about_leave_the_interval_of_the_facet_as_it_is() -> None:
    # all of the weight lies on the one facet, in however many parts
    by_facet = told(needs("q", NUMBERS)).standings[0]
    in_parts = told(needs("q", NUMBERS, cooking=0.4, chess=0.4)).standings[0]
    assert in_parts.value == pytest.approx(by_facet.value)
    assert (in_parts.low, in_parts.high) == pytest.approx((by_facet.low, by_facet.high))


def test_evidence_that_hardly_counts_does_not_narrow_an_interval() -> None:
    # nearly all of the weight lies on a topic that nobody was asked about, in a format that nobody was asked in
    nothing = told(needs("q", ("format: ode",), cooking=0.9)).standings[0]
    hardly = told(needs("q", ("format: ode",), cooking=0.9, sums=0.7)).standings[0]
    assert hardly.high - hardly.low == pytest.approx(nothing.high - nothing.low, rel=0.1)


def test_the_value_of_an_expert_that_was_nearly_always_wrong_lies_inside_its_interval() -> None:
    profiles = pool(record("a", {"sums": (1, 999)}))
    standing = told(needs(), profiles=profiles).standings[0]
    assert standing.low <= standing.value <= standing.high
