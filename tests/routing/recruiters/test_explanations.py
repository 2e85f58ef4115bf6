from __future__ import annotations

from dataclasses import replace

import pytest

from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.tallies import interval, posterior_of, tallies_of
from symmoe.types import Explanation, Profiles, Skills, Tally
from tests.fakes import query
from tests.routing.strategies import NUMBER, NUMBERS, THREE, needs, pool, record


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
