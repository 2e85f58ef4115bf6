from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from symmoe.deployments.access.similar import LONGEST, alike, likeness, nearest, pack

ONE = np.array([1.0, 0.0], np.float32)


def same(one: str, other: str) -> bool:
    """Whether two questions whose vectors are equal are taken for one."""
    first, second = likeness(one), likeness(other)
    assert first is not None
    assert second is not None
    found = first.form == second.form and nearest([pack("kept", first, ONE)], second, ONE, 1.0) == "kept"
    assert found == alike(first, second) == alike(second, first)
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what's the capital of France"),
        ("Please tell me how photosynthesis works", "how does photosynthesis work"),
        ("What is 17 + 25?", "Calculate 17 + 25."),
        ("What is 17 plus 25?", "Calculate 17 + 25."),
        ("How do you say the number 54 in Spanish?", "What is 54 in Spanish?"),
        ("Could you please tell me what is the boiling point of lead?", "Find the boiling point of lead"),
        ("Write the number 748 as a Roman numeral.", "What is 748 in Roman numerals?"),
    ],
)
def test_other_words_may_ask_the_same(one: str, other: str) -> None:
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 17 + 25?", "What is 17 + 26?"),
        ("What is 17 + 25?", "What is 17 - 25?"),
        ("What is 3 - 5?", "What is 5 - 3?"),
        ("What is (2 + 3) * 4?", "What is 2 + (3 * 4)?"),
        ("What is 1.5 times 2?", "What is 15 times 2?"),
        ("What is 5?", "What is 5!?"),
        ("What is x2 plus y?", "What is x3 plus y?"),
        ("What is two plus three?", "What is two plus four?"),
        ('Translate "good day".', 'Translate "good night".'),
        ("Explain `foo()`.", "Explain `bar()`."),
        ("Spell 'cat' backwards", "Spell 'cot' backwards"),
        ("Is it allowed?", "Is it not allowed?"),
        ("Why does it work?", "Why doesn't it work?"),
        ("Where is the river Po in Italy?", "Where is the river Po in Spain?"),
        ("tell me of Austria", "tell me of Australia"),
        ("sort c, a, b", "sort c, b, a"),
        ("sort pear, apple and fig", "sort fig, pear and apple"),
        ("does a dog bite men", "does men bite a dog"),
        ("list all", "list any"),
        ("what is before it", "what is after it"),
        ("Turn this into JSON: Maria works as a plumber.", "Turn this into JSON: Jonas works as a plumber."),
        ("Turn this into JSON: Maria works as a plumber.", "Turn this into JSON: Maria works as a teacher."),
        ("Reverse this list: cloud, table, river", "Reverse this list: cloud, chair, river"),
        ("Reverse this list: can, the, river", "Reverse this list: the, can, river"),
        ("Reverse this list: one, that, river", "Reverse this list: one, which, river"),
        ("Reverse this list: found, an, of", "Reverse this list: an, found, of"),
        ("What day will it be in 19 days?", "What day was it 19 days ago?"),
        ("All artists are birds", "All singers are birds"),
        ("How do penguins fly?", "Do penguins fly?"),
        ("Which birds can fly?", "Can birds fly?"),
        ("flights from Paris to Rome", "flights to Paris from Rome"),
        ("Where is Turkey?", "Who is Turkey?"),
        ("What is (a + b)?", "What is (b + a)?"),
    ],
)
def test_what_changes_a_question_without_changing_its_vector_keeps_it_apart(one: str, other: str) -> None:
    assert not same(one, other)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_questions_with_different_numbers_are_never_one(one: list[int], other: list[int]) -> None:
    asked = ["add up " + " and ".join(map(str, numbers)) for numbers in (one, other)]
    assert same(*asked) == (one == other)


@given(st.text(max_size=60), st.text(alphabet="abcdefg ", min_size=1, max_size=12))
def test_questions_with_different_quotes_are_never_one(text: str, quoted: str) -> None:
    about = text.replace('"', "")
    first, second = likeness(f'{about} "{quoted}"'), likeness(f'{about} "{quoted}h"')
    assert first is not None
    assert second is not None
    assert first.form != second.form


def test_long_questions_are_not_compared() -> None:
    assert likeness("x" * LONGEST) is not None
    assert likeness("x" * (LONGEST + 1)) is None


def test_the_nearest_above_the_cosine_is_taken_and_rows_of_another_length_are_left_out() -> None:
    mark = likeness("what is it")
    assert mark is not None
    rows = [
        pack("off", mark, np.array([0.6, 0.8], np.float32)),
        pack("near", mark, np.array([0.96, 0.28], np.float32)),
        pack("of another embedder", mark, np.ones(3, np.float32)),
    ]
    assert nearest(rows, mark, ONE, 0.5) == "near"
    assert nearest(rows[:1], mark, ONE, 0.7) is None
    assert nearest([], mark, ONE, 0.0) is None
