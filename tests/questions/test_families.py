from __future__ import annotations

import datetime
import json
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.profiles.marking import is_right
from symmoe.questions.families import FAMILIES, roman, spanish
from symmoe.questions.suites import draw
from tests.fakes import question

every_family = pytest.mark.parametrize("family", list(FAMILIES))


@every_family
def test_every_answer_passes_its_own_scorer(family: str) -> None:
    for drawn in islice(draw(family, "train", 0), 40):
        assert drawn.scorer == FAMILIES[family].scorer
        assert is_right(drawn.answer, drawn)


@every_family
def test_a_wrong_answer_does_not_pass(family: str) -> None:
    drawn = list(islice(draw(family, "train", 1), 20))
    others = {q.answer for q in drawn}
    assert len(others) > 1
    assert not any(is_right(other, q) for q in drawn for other in others - {q.answer})


@every_family
def test_equal_random_sources_draw_equal_questions(family: str) -> None:
    kind = FAMILIES[family]
    assert [kind.draw(Random(s)) for s in range(5)] == [kind.draw(Random(s)) for s in range(5)]


@every_family
def test_questions_and_answers_are_one_line_each(family: str) -> None:
    for drawn in islice(draw(family, "train", 2), 20):
        assert drawn.question == drawn.question.strip() != ""
        assert "\n" not in drawn.question + drawn.answer


def read_roman(numeral: str) -> int:
    values = [dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))[letter] for letter in numeral]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


@given(st.integers(1, 999))
def test_a_roman_numeral_reads_back_as_its_number(number: int) -> None:
    assert read_roman(roman(number)) == number


@given(st.integers(1, 999))
def test_a_roman_numeral_repeats_no_letter_four_times(number: int) -> None:
    assert not any(letter * 4 in roman(number) for letter in "IXCM")
    assert not any(letter * 2 in roman(number) for letter in "VLD")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "cero"),
        (12, "doce"),
        (22, "veintidós"),
        (30, "treinta"),
        (45, "cuarenta y cinco"),
        (100, "cien"),
        (101, "ciento uno"),
        (500, "quinientos"),
        (716, "setecientos dieciséis"),
        (999, "novecientos noventa y nueve"),
    ],
)
def test_numbers_are_said_in_spanish(number: int, words: str) -> None:
    assert spanish(number) == words


def test_no_two_numbers_are_said_alike_in_spanish() -> None:
    assert len({spanish(number) for number in range(1000)}) == 1000


def test_json_answers_are_json_and_hold_only_what_the_question_says() -> None:
    for drawn in islice(draw("json", "train", 3), 30):
        record = json.loads(drawn.answer)
        assert "name" in record
        assert all(str(value) in drawn.question for value in record.values())


def test_sorting_answers_are_the_numbers_of_the_question_in_the_order_asked_for() -> None:
    for drawn in islice(draw("sorting", "train", 4), 30):
        order, given_numbers = drawn.question.removeprefix("Sort these numbers from ").split(": ")
        numbers = sorted(map(int, given_numbers.split(", ")), reverse=order == "largest to smallest")
        assert drawn.answer == ", ".join(map(str, numbers))


def test_iso_dates_are_the_dates_of_their_questions() -> None:
    months = "January February March April May June July August September October November December".split()
    dated = [q for q in islice(draw("dates", "train", 5), 40) if "ISO" in q.question]
    assert dated
    for drawn in dated:
        month, day, year = drawn.question.removeprefix("Write the date ").split(" in ")[0].replace(",", "").split()
        assert datetime.date.fromisoformat(drawn.answer) == datetime.date(int(year), months.index(month) + 1, int(day))


def test_the_same_spanish_number_in_other_capitals_is_right() -> None:
    asked = question("How do you say the number 12 in Spanish?", "doce", scorer="exact")
    assert is_right(" Doce. ", asked)
    assert not is_right("trece", asked)
