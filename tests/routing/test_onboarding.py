"""A newcomer's record from few answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symmoe.routing.onboarding import (
    BORROWED,
    borrow,
    diverse_questions,
    earned_by_agreement,
    lending_strength,
    likeness,
)
from symmoe.routing.profiles import build_profile
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.tallies import posterior_of, tallies_of
from symmoe.types import ExpertProfile, Profiles, SkillMatch, Skills, Tally

TOPICS = ("sums", "spanish", "sorting", "logic")


def needing(topic: str, facet: str = "format: number") -> Skills:
    return Skills("q", (SkillMatch(topic, 0.9),), (facet,))


def pool(*accuracies: tuple[float, ...], asked: float = 100) -> Profiles:
    """One expert for each row: its accuracy on each topic."""
    experts = {}
    for number, row in enumerate(accuracies):
        tallies = {topic: Tally(asked * p, asked * (1 - p)) for topic, p in zip(TOPICS, row, strict=False)}
        overall = Tally(sum(t.right for t in tallies.values()), sum(t.wrong for t in tallies.values()))
        experts[f"e{number}"] = ExpertProfile(f"e{number}", tallies, overall)
    return Profiles(experts, dict.fromkeys(TOPICS, ""))


SPECIALISTS = pool((0.98, 0.02, 0.02, 0.02), (0.02, 0.98, 0.02, 0.02), (0.02, 0.02, 0.98, 0.02))
GENERALISTS = pool((0.55, 0.5, 0.6, 0.5), (0.5, 0.52, 0.58, 0.5), (0.52, 0.5, 0.6, 0.54))


def test_a_newcomer_is_most_like_the_expert_whose_record_explains_its_results() -> None:
    alike = likeness(SPECIALISTS, [needing("spanish")] * 3 + [needing("sums")] * 3, [1, 1, 1, 0, 0, 0])
    assert max(alike, key=lambda e: alike[e]) == "e1"
    assert sum(alike.values()) == pytest.approx(1)


def test_a_newcomer_that_answered_nothing_is_equally_like_everyone() -> None:
    assert list(likeness(GENERALISTS, [], []).values()) == pytest.approx([1 / 3] * 3)


def test_generalists_lend_much_and_specialists_little() -> None:
    def lent(profiles: Profiles) -> float:
        tallies = tallies_of(profiles)
        return lending_strength(tallies, posterior_of(tallies))

    assert lent(SPECIALISTS) == BORROWED[0]
    assert lent(GENERALISTS) == BORROWED[1]


def test_a_specialist_of_something_new_is_recruited_for_it_after_three_answers() -> None:
    asked = [needing(topic) for topic in TOPICS for _ in range(3)]
    earned = [float(needed.matches[0].skill == "logic") for needed in asked]
    newcomer = borrow(build_profile("new", asked, earned), SPECIALISTS, likeness(SPECIALISTS, asked, earned))
    grown = Profiles({**SPECIALISTS.experts, "new": newcomer}, SPECIALISTS.parents)
    values = PosteriorRecruiter(grown).values([needing(topic) for topic in TOPICS])
    assert [list(grown.experts)[best] for best in values.argmax(axis=1)] == ["e0", "e1", "e2", "new"]


def test_what_is_borrowed_is_marked_and_fades_with_own_answers() -> None:
    asked = [needing("sums")] * 40
    newcomer = borrow(build_profile("new", asked, [1.0] * 40), GENERALISTS, dict.fromkeys(GENERALISTS.experts, 1 / 3))
    assert "sums" not in newcomer.borrowed
    assert newcomer.skills["sums"] == Tally(40, 0)
    assert newcomer.borrowed["logic"].asked == pytest.approx(BORROWED[1], abs=1e-3)


@given(st.lists(st.tuples(st.sampled_from(TOPICS), st.sampled_from(["format: number", "format: code"])), max_size=40))
@settings(max_examples=30, deadline=None)
def test_questions_are_chosen_once_each_and_spread_over_topics(kinds: list[tuple[str, str]]) -> None:
    skills = [needing(topic, facet) for topic, facet in kinds]
    chosen = diverse_questions(skills, 8)
    assert len(chosen) == len(set(chosen)) == min(8, len(kinds))
    if kinds:
        distinct = len(set(kinds))
        assert len({kinds[i] for i in chosen}) == min(8, distinct)


def test_agreement_earns_the_share_of_the_pool_that_gives_the_same_answer() -> None:
    others = [[("4", 0.75), ("5", 0.25)], [("4", 0.75), ("5", 0.25)], [(None, 1.0)], [("yes", 0.5), (None, 0.5)]]
    assert earned_by_agreement(["4", "5", "4", "yes"], others) == [0.75, 0.25, 0.5, 1.0]


def test_no_answer_agrees_with_nothing() -> None:
    assert earned_by_agreement([None], [[("4", 1.0)]]) == [0.0]
