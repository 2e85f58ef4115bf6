from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.routing.profiles import build_profile, complete, difference, merge, parents_of
from symmoe.types import ExpertProfile, Profiles, SkillMatch, Skills, Tally
from tests.routing.strategies import NUMBER_IN_ENGLISH, NUMBERS, needs, pool, record, skills_of

ASKED = [
    needs("1", NUMBERS, sums=0.9),
    needs("2", NUMBERS, sums=0.9, dates=0.8),
    needs("3", ("format: code",), dates=0.9, sums=0.7),
    needs("4"),
    needs("5", NUMBERS, sums=0.5),
]
EARNED = [1.0, 0.0, 0.25, 1.0, 1.0]


def test_an_answer_counts_on_the_nearest_topic_and_on_every_facet_of_its_question() -> None:
    # sums: 1 (1), 0 (2), 1 (5); dates: 0.25 (3); numbers: 1, 0 and 1; question 4 counts over all
    profile = build_profile("adder", ASKED, EARNED)
    assert profile.skills == {
        "sums": Tally(2, 1),
        "dates": Tally(0.25, 0.75),
        "format: code": Tally(0.25, 0.75),
        **dict.fromkeys(NUMBERS, Tally(2, 1)),
    }
    assert profile.overall == Tally(3.25, 1.75)


def test_with_every_topic_an_answer_counts_on_all_topics_of_its_question() -> None:
    profile = build_profile("adder", ASKED, EARNED, every_topic=True)
    assert profile.skills["sums"] == Tally(2.25, 1.75)
    assert profile.skills["dates"] == Tally(0.25, 1.75)


def test_a_skill_that_too_few_questions_need_is_left_out() -> None:
    profile = build_profile("adder", ASKED, EARNED, least_questions=3)
    assert profile.skills == dict.fromkeys(("sums", *NUMBERS), Tally(2, 1))
    assert profile.overall == Tally(3.25, 1.75)


def test_a_profile_carries_what_earned_it() -> None:
    profile = build_profile("adder", [], [], tokens=12.5, fingerprint="0123", date="2025-03-01")
    assert profile == ExpertProfile("adder", {}, Tally(0, 0), 12.5, "0123", "2025-03-01")


def test_more_answers_than_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        build_profile("adder", [needs("1", sums=0.9)], [1.0, 1.0])


@given(st.lists(st.tuples(skills_of(), st.floats(0, 1)), max_size=8))
def test_as_many_answers_are_counted_as_questions_were_asked(asked: list[tuple[Skills, float]]) -> None:
    profile = build_profile("a", [skills for skills, _ in asked], [score for _, score in asked])
    assert profile.overall.asked == pytest.approx(len(asked))
    topics = [skills.matches[0].skill for skills, _ in asked if skills.matches]
    facets = [facet for skills, _ in asked for facet in skills.facets]
    for skill, tally in profile.skills.items():
        assert tally.asked == pytest.approx([*topics, *facets].count(skill), abs=1e-3)
        assert min(tally.right, tally.wrong) >= 0


def test_the_parent_of_a_topic_is_the_most_specific_facet_that_four_in_five_of_its_questions_share() -> None:
    def asked(topic: str, *first_facets: str) -> list[Skills]:
        return [Skills("q", (SkillMatch(topic, 1.0),), (facet, "general")) for facet in first_facets]

    four_of_five = asked("sums", NUMBER_IN_ENGLISH, NUMBER_IN_ENGLISH, "other", NUMBER_IN_ENGLISH, NUMBER_IN_ENGLISH)
    three_of_four = asked("dates", NUMBER_IN_ENGLISH, NUMBER_IN_ENGLISH, "other", NUMBER_IN_ENGLISH)
    without = [Skills("q", (SkillMatch("chess", 1.0),)), Skills("q", (), NUMBERS)]
    assert parents_of([*four_of_five, *three_of_four, *without]) == {
        "chess": "",
        "dates": "",
        "sums": NUMBER_IN_ENGLISH,
    }


def test_records_of_the_same_weights_add_up() -> None:
    first = replace(record("a", {"sums": (1.5, 2), "dates": (1, 0)}, tokens=10), fingerprint="f", date="2025-01-01")
    second = replace(record("a", {"sums": (4, 1), "chess": (0, 3)}, tokens=40), fingerprint="f", date="2025-02-01")
    merged = merge(pool(first), pool(second))
    (both,) = merged.experts.values()
    assert both.skills == {"chess": Tally(0, 3), "dates": Tally(1, 0), "sums": Tally(5.5, 3)}
    assert both.overall == Tally(6.5, 6)
    assert both.tokens == pytest.approx((10 * 4.5 + 40 * 8) / 12.5)
    assert (both.fingerprint, both.date) == ("f", "2025-02-01")


def test_a_record_of_other_weights_replaces_the_first() -> None:
    first, second = record("a", {"sums": (1, 2)}), replace(record("a", {"dates": (3, 0)}), fingerprint="new")
    assert merge(pool(first), pool(second)).experts == {"a": second}


def test_merging_keeps_the_experts_and_the_parents_of_both_and_the_second_ones_word_on_a_parent() -> None:
    first = pool(record("a", {"sums": (1, 0), "dates": (1, 0)}), parents={"sums": "old", "dates": "kept"})
    second = pool(record("b", {"sums": (1, 0)}), parents={"sums": "new"})
    merged = merge(first, second)
    assert list(merged.experts) == ["a", "b"]
    assert merged.parents == {"sums": "new", "dates": "kept"}


def test_borrowed_answers_are_not_added_up() -> None:
    first = replace(record("a", {}), borrowed={"sums": Tally(5, 5)})
    lent_again = replace(record("a", {}), borrowed={"sums": Tally(2, 1)})
    assert merge(pool(first), pool(record("a", {}))).experts["a"].borrowed == {"sums": Tally(5, 5)}
    assert merge(pool(first), pool(lent_again)).experts["a"].borrowed == {"sums": Tally(2, 1)}


def test_an_unknown_length_of_answers_does_not_shorten_a_known_one() -> None:
    known, unknown = record("a", {"sums": (5, 5)}, tokens=100), record("a", {"sums": (5, 5)})
    assert merge(pool(known), pool(unknown)).experts["a"].tokens == 100
    assert merge(pool(unknown), pool(known)).experts["a"].tokens == 100


@given(st.permutations([record("a", {"sums": (n, 2 * n), f"t{n}": (n / 2, 1)}, tokens=10.0 * n) for n in range(1, 5)]))
def test_the_order_of_merging_changes_no_tally(records: list[ExpertProfile]) -> None:
    merged = pool(records[0])
    for each in records[1:]:
        merged = merge(merged, pool(each))
    (total,) = merged.experts.values()
    assert total.skills["sums"] == Tally(10, 20)
    assert total.overall == Tally(15, 24)
    assert total.tokens == pytest.approx((10 * 4.5 + 20 * 8 + 30 * 11.5 + 40 * 15) / 39)


def test_profiles_are_completed_to_exactly_the_experts_of_a_pool_in_its_order() -> None:
    known = pool(record("a", {"sums": (1, 0)}), record("left", {"sums": (1, 0)}), parents={"sums": "p"})
    found = complete(known, ["new", "a"])
    assert list(found.experts) == ["new", "a"]
    assert found.experts["a"] == known.experts["a"]
    assert found.experts["new"] == ExpertProfile("new", {}, Tally(0, 0))
    assert found.parents == {"sums": "p"}


def test_a_difference_names_the_skills_that_changed_the_largest_change_of_accuracy_first() -> None:
    first = record("a", {"sums": (5, 5), "dates": (5, 5), "chess": (1, 1), "gone": (0, 9)})
    second = record("a", {"sums": (6, 5), "dates": (0, 9), "chess": (1, 1), "new": (1, 0)})
    found = difference(first, second)
    assert found == {
        "dates": (Tally(5, 5), Tally(0, 9)),
        "gone": (Tally(0, 9), Tally(0, 0)),
        "new": (Tally(0, 0), Tally(1, 0)),
        "sums": (Tally(5, 5), Tally(6, 5)),
    }
    assert list(found) == ["dates", "gone", "new", "sums"]  # 0.45, 0.45, 0.25 and 0.04


def test_a_record_does_not_differ_from_itself() -> None:
    same = record("a", {"sums": (5, 5)})
    assert difference(same, same) == {}


def test_merging_with_nothing_changes_nothing() -> None:
    known = pool(record("a", {"sums": (1, 2)}, tokens=7))
    assert merge(known, Profiles({})) == merge(Profiles({}), known) == known
