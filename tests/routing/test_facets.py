from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.routing import facets
from symmoe.routing.facets import FORMATS, LANGUAGES, facets_of, format_of, is_format, language_of, parent_of


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Which is a mammal?\nA. trout\nB. whale\nC. wasp", "multiple choice"),
        ("Which is a mammal? (A) trout (B) whale (C) wasp", "multiple choice"),
        ("下面哪一个是首都?\nA、北京\nB、上海", "multiple choice"),
        ("A man walks into a bar. What does he say?", "open answer"),  # an A alone is an article
        ("Write a Python function that reverses a list.", "code"),
        ("def add(a, b):\n    # complete this", "code"),
        ("What does this print?\n```\nprint(1)\n```", "code"),
        ("SELECT name FROM people", "code"),
        ("Extract the names and give them as JSON.", "structured data"),
        ("Turn this list into a CSV file: ann, bob", "structured data"),
        ("Is a whale a fish?", "yes or no"),
        ("All birds sing. Tweety is a bird. Does it logically follow that Tweety sings? Think.", "yes or no"),
        ("The sky is green. True or false?", "yes or no"),
        ("How many days are in 3 weeks?", "number"),
        ("What is 17 * 23?", "number"),
        ("Find the greatest prime factor of 84.", "number"),
        ("Express $\\frac{1}{3}$ with denominator 12: what is it?", "number"),
        ("小明有五个苹果，吃了两个，还剩多少个？", "number"),
        ("Who painted the ceiling of the Sistine Chapel?", "open answer"),
        ("What happened in 1789?", "open answer"),  # one numeral and nothing mathematical
        ("Tell me a story about a lighthouse.", "open answer"),
        ("", "open answer"),
    ],
)
def test_a_question_asks_for_the_format_that_it_shows(text: str, form: str) -> None:
    assert format_of(text) == form


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the most important thing to know about the history of the river?", "english"),
        ("Wie viele Tage hat ein Jahr, das kein Schaltjahr ist, und warum ist das so?", "german"),
        ("¿Cuántos días tiene un año bisiesto y por qué se añade un día cada cuatro años?", "spanish"),
        ("Combien de jours y a-t-il dans une année bissextile, et pourquoi en est-il ainsi ?", "french"),
        ("Сколько дней в високосном году и почему его так называют?", "russian"),
        ("中国的首都是哪里？", "chinese"),
        ("日本の首都はどこですか？", "japanese"),
        ("한국의 수도는 어디입니까?", "korean"),
        ("ما هي عاصمة مصر؟", "arabic"),
    ],
)
def test_a_question_is_in_the_language_that_it_is_written_in(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["Was ist das?", "Dis-moi tout", "hola", "Qui est-ce ?"])
def test_a_text_too_short_to_tell_is_taken_for_english(text: str) -> None:
    assert language_of(text) == "english"


@pytest.mark.parametrize("text", ["", "  \n", "12 * 7 = ?", "1, 4, 9, 16, ?", "🎉", "!!!", "1 2 3 4 5 6 7 8 9 ?"])
def test_a_text_without_letters_is_taken_for_english(text: str) -> None:
    assert language_of(text) == "english"


def test_code_in_plain_letters_is_taken_for_english_and_other_code_for_its_language() -> None:
    plain = "def addiere(a, b):\n    # gib die Summe der beiden Zahlen aus, die hier stehen, und sonst nichts\n    "
    assert facets_of(plain) == ("format: code in english", "format: code", "language: english")
    spanish = "Escribe una función en Python que sume dos números enteros y devuelva el resultado:\ndef suma(a, b):"
    assert facets_of(spanish)[0] == "format: code in spanish"


def test_facets_come_most_specific_first() -> None:
    text = "Wie viele Stunden hat ein Tag, und was ist 3 * 24, wenn man es im Kopf ausrechnet?"
    assert facets_of(text) == ("format: number in german", "format: number", "language: german")


@given(st.text())
def test_any_text_has_three_facets_whose_names_carry_a_colon(text: str) -> None:
    both, form, language = facets_of(text)
    assert form.removeprefix("format: ") in FORMATS
    assert language.removeprefix("language: ") in LANGUAGES.values()
    assert both == f"{form} in {language.removeprefix('language: ')}"
    assert facets_of(text) == (both, form, language)


@given(st.text(alphabet="AB().:;?$\\ \n`0123xfdeyn是\ud800", max_size=300))
def test_text_that_looks_like_formats_and_halves_of_surrogate_pairs_do_not_raise(text: str) -> None:
    assert len(facets_of(text)) == 3


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "(",
        "1 ",
        "A. ",
        "$",
        "write a ",
        "is a ",
        "中",
        "\n",
        "What is the sum of 3 and 4? ",
        "create " * 40 + "\n",
    ],
)
def test_a_long_text_is_read_only_at_its_head_and_its_end(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    language_of("the first call reads the model of the languages from its file")
    began = process_time()
    found = facets_of(text)
    assert process_time() - began < 0.5
    assert found == facets_of(text)


def test_the_format_is_read_at_the_end_and_the_language_at_the_head() -> None:
    german = "Wir lesen einen langen Text über die Geschichte der Eisenbahn und ihrer Bahnhöfe. " * 60
    asked = german + "How many trains are there?"
    assert facets_of(asked) == ("format: number in german", "format: number", "language: german")


@pytest.mark.parametrize(
    ("facet", "parent"),
    [
        ("format: number in english", "format: number"),
        ("format: yes or no in german", "format: yes or no"),
        ("format: number", ""),
        ("language: english", ""),
        ("sums in english", ""),
        ("", ""),
    ],
)
def test_a_format_in_a_language_belongs_to_the_format(facet: str, parent: str) -> None:
    assert parent_of(facet) == parent


def test_formats_in_whatever_language_are_told_from_other_skills() -> None:
    assert all(is_format(f"format: {form}") for form in FORMATS)
    assert not any(map(is_format, ["number", "format: number in english", "format: ode", "language: english", ""]))


@given(st.text())
def test_the_facets_of_a_text_form_a_chain(text: str) -> None:
    both, form, language = facets_of(text)
    assert (parent_of(both), parent_of(form), parent_of(language)) == (form, "", "")
    assert (is_format(both), is_format(form), is_format(language)) == (False, True, False)


_SAID = st.sampled_from(
    "def class import public #include select assert ``` >>> write define sql java json yaml xml csv markdown table yes "
    "or no true false does it logically follow answer is ? how many much calculate solve for what percentage fraction "
    "2 * 3 -4 in dollars (in feet) 多少 几 人 . \n".split(" ")
)


@given(st.lists(_SAID, max_size=12).map(" ".join), st.sampled_from([*facets._BY_PATTERN.values(), facets._QUANTITY]))
def test_texts_that_a_pattern_wants_stand_wherever_it_is_found(text: str, told: tuple[facets._Told, ...]) -> None:
    assert facets._shows(text, told) == any(pattern.search(text) is not None for _, pattern in told)
