from __future__ import annotations

import pytest

from symmoe.aggregation.equivalence import equal


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac{2}{4}", r"\frac{1}{2}"),
        (r"\sqrt{2}", "2^{1/2}"),
        ("x^2", "x*x"),
        ("1,000", "1000"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        ("x = 5", "5"),
    ],
)
def test_mathematical_answers_of_one_value_are_equal_both_ways_round(first: str, second: str) -> None:
    assert equal(first, second, "math")
    assert equal(second, first, "math")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1/2", "0.51"),
        ("2", "3"),
        ("(1, 2)", "(2, 1)"),
        ("x^2", "x^3"),
        ("5", ""),
        ("5", "}{"),
        ("5", "\\"),
        ("5", "$"),
    ],
)
def test_mathematical_answers_of_other_values_are_not_equal_and_nonsense_equals_nothing(
    first: str, second: str
) -> None:
    assert not equal(first, second, "math")
    assert not equal(second, first, "math")


@pytest.mark.parametrize("kind", ["auto", "text", "number", "choice"])
def test_other_answers_are_equal_only_as_they_are_written(kind: str) -> None:
    assert equal("0.5", "0.5", kind)  # type: ignore[arg-type]
    assert not equal("1/2", "0.5", kind)  # type: ignore[arg-type]


def test_words_are_not_taken_for_mathematics() -> None:
    assert not equal("north", "htron", "math")
    assert equal("north", "north", "math")
