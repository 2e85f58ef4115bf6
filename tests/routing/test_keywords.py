from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.routing.keywords import LONGEST, MOST_KEYWORDS, PASSES, annotation_queries, keywords_of, read_keywords


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Algebra, Number theory", ["algebra", "number theory"]),
        ("1. Algebra\n2. Logic\n", ["algebra", "logic"]),
        ("- **Algebra**\n- `Logic`", ["algebra", "logic"]),
        ('"algebra"; logic.', ["algebra", "logic"]),
        ("代数、几何", ["代数", "几何"]),
        ("Skills: algebra, logic", ["logic"]),
        ("a, b, c, d, e, f", ["a", "b", "c", "d", "e"]),
        ("the art of answering at great length, logic", ["logic"]),
        (" ,, \n ,", []),
        ("", []),
    ],
)
def test_keywords_are_read_without_marks_and_numbers(written: str, read: list[str]) -> None:
    assert read_keywords(written) == read


@given(st.text())
def test_whatever_is_written_few_short_keywords_without_a_colon_are_read(text: str) -> None:
    found = read_keywords(text)
    assert len(found) <= MOST_KEYWORDS
    assert all(0 < len(keyword) <= LONGEST and ":" not in keyword for keyword in found)


def test_a_keyword_counts_that_more_than_one_pass_gave_the_commonest_first() -> None:
    passes = ["Logic, algebra", "algebra, sets", "algebra, logic", "poetry, poetry", ""]
    assert keywords_of(passes) == ("algebra", "logic")
    assert keywords_of([]) == ()


def test_a_question_is_asked_about_several_times_each_with_a_seed_of_its_own() -> None:
    queries = annotation_queries(["What is {this}?", "Why?"], seed=7)
    assert [query.id for query in queries] == [f"{n}/{turn}" for n in (0, 1) for turn in range(PASSES)]
    assert [query.sampling.seed for query in queries] == [*range(7, 7 + PASSES)] * 2
    assert "Question: What is {this}?\n" in queries[0].text
    assert all(query.sampling.temperature > 0 for query in queries)
    assert annotation_queries([], seed=0) == []
