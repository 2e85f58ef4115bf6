from __future__ import annotations

import time

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


@pytest.mark.parametrize(
    "endless",
    [
        "9^9^9^9",
        "9^{9^{9^9}}",
        "(9^{99})^{99}",
        "2^{99999999999}",
        "9**9**9",
        "99999!",
        r"\\sum_{i=1}^{10^9} i",
        "2^{999 \\cdot 999999}",
        "1+" * 400,
    ],
)
def test_what_could_take_for_ever_to_work_out_is_compared_as_written(endless: str) -> None:
    began = time.process_time()
    assert not equal(endless, "5", "math")
    assert equal(endless, endless, "math")
    assert time.process_time() - began < 2


def test_ordinary_powers_are_worked_out() -> None:
    assert equal("2^{10}", "1024", "math")
    assert equal("x^2 + y^2", "y^2 + x^2", "math")
