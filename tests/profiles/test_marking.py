from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.config import SamplingConfig
from symmoe.engines.echo import EchoEngine
from symmoe.loading.lanes import ExpertWeights
from symmoe.pipeline import Watch
from symmoe.profiles import marking
from symmoe.profiles.marking import (
    RESAMPLES,
    Matrix,
    as_query,
    estimate,
    is_right,
    paired,
    passes,
    program_in,
    run_matrix,
)
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import mixed_suite
from symmoe.types import Candidate, Load, Message, Question, Sampling
from tests.fakes import echo_parts, question

SQUARE = "assert square(3) == 9\nassert square(-2) == 4"
CAPITAL = question("What is the capital of Australia?", "Canberra", scorer="exact")
PRODUCT = question("What is 17 times 23?", "391", scorer="number")
CUPS = question("Tom had 5 cups and broke 2. How many are left?", "3", scorer="number")
PLANET = question("Which planet is largest? A) Mars B) Jupiter C) Venus D) Earth", "B", scorer="choice")
FOLLOWS = question("No cats are stones. Does it follow? Answer Yes or No.", "Yes", scorer="choice")
SCURVY = question("Which vitamin prevents scurvy? A) vitamin A B) vitamin C C) vitamin D", "B", scorer="choice")
NEUTRAL = question("Which particle has no charge? A) proton B) electron C) neutron", "C", scorer="choice")
POTASSIUM = question("What is the chemical symbol for potassium?", "K", scorer="exact")
NINE = question("Write the number 9 as a Roman numeral.", "IX", scorer="exact")
CINCO = question("How do you say the number 5 in Spanish?", "cinco", scorer="exact")
REVERSED = question("Reverse this list of words: a, b, c", "c, b, a", scorer="exact")
SORTED = question("Sort these numbers from smallest to largest: 3, 1, 2", "1, 2, 3", scorer="exact")
ANN = question("Turn this into a JSON record: Ann is 5 years old.", '{"name": "Ann", "age": 5}', scorer="exact")
MOTHER = question("John is married to Mary. Ann is their child. What is Mary to Ann?", "mother", scorer="exact")

RIGHT = [
    (CAPITAL, "Canberra"),
    (CAPITAL, "canberra."),
    (CAPITAL, "**Canberra**"),
    (CAPITAL, "The capital of Australia is Canberra."),
    (CAPITAL, "The capital of Australia is Canberra. It lies between Sydney and Melbourne."),
    (CAPITAL, "Canberra is the capital of Australia."),
    (CAPITAL, "Australia's largest city is Sydney. The capital is a planned city. So the answer is Canberra."),
    (CAPITAL, "The capital of Australia is:\n\n**Canberra**"),
    (CAPITAL, "In Australia, Canberra is the capital."),
    (CAPITAL, "Canberra, not Sydney."),
    (PRODUCT, "391"),
    (PRODUCT, "The product of 17 and 23 is 391."),
    (PRODUCT, "391 is the product of 17 and 23."),
    (PRODUCT, "17 × 20 = 340 and 17 × 3 = 51. Adding up: 340 + 51 = 391"),
    (PRODUCT, r"17 \times 23 = \boxed{391}"),
    (PRODUCT, "So the answer is **391**."),
    (CUPS, "Tom has 3 cups left."),
    (CUPS, "If 2 of the 5 break, 3 cups are left out of 5."),
    (CUPS, "5 - 2 equals 3. I hope that this helps!"),
    (CUPS, "Three cups are left."),
    (PLANET, "B"),
    (PLANET, "The correct answer is B) Jupiter."),
    (PLANET, "Jupiter"),
    (SCURVY, "The vitamin that prevents scurvy is vitamin C."),
    (SCURVY, "B) vitamin C. Vitamin A does not."),
    (NEUTRAL, "The particle that has no charge is the neutron."),
    (PLANET, "The largest planet is Jupiter."),
    (FOLLOWS, "Yes. No stones are cats either."),
    (FOLLOWS, "Yes, it follows that no stones are cats."),
    (POTASSIUM, "K"),
    (POTASSIUM, "The chemical symbol for potassium is K."),
    (POTASSIUM, 'The symbol is "K".'),
    (NINE, "The number 9 as a Roman numeral is IX."),
    (CINCO, "The number 5 in Spanish is cinco."),
    (CINCO, "'Cinco' is the Spanish word for 5."),
    (REVERSED, "The reversed list is: c, b, a"),
    (SORTED, "Run this:\n```\nprint(sorted(numbers))\n```\nIt prints:\n```\n[1, 2, 3]\n```\nThis is the list, sorted."),
    (REVERSED, "The reverse of a, b, c is c, b, a."),
    (ANN, '```json\n{"age": 5, "name": "Ann"}\n```'),
    (MOTHER, "Mary is Ann's mother."),
    (question("?", "1000", scorer="number"), "It is 1,000."),
    (question("?", "0.3", scorer="number"), "The probability is 3/10."),
    (question("?", "5", scorer="number"), "5.0"),
    (question("?", "Yes", scorer="choice"), "yes"),
    (question("?", "0.5", scorer="math"), r"so \boxed{\frac{1}{2}}"),
    (question("?", "5", scorer="math"), "x = 5"),
    (question("?", "doce", scorer="exact"), "The word is doce"),
]
WRONG = [
    (CAPITAL, "Sydney"),
    (CAPITAL, "The capital of Australia is not Canberra."),
    (CAPITAL, "The capital of Australia isn't Canberra, but Sydney."),
    (CAPITAL, "Sydney. It is often confused with Canberra."),
    (CAPITAL, "Sydney, Melbourne, Canberra"),
    (CAPITAL, "Canberra, Sydney, or Melbourne"),
    (CAPITAL, "Sydney is the capital. Its airport has flights to many cities. Canberra is two hours away. Enjoy!"),
    (CAPITAL, "Canberra or Sydney"),
    (CAPITAL, "Canberrawood"),
    (CAPITAL, "It is Sydney or Canberra."),
    (PRODUCT, "381"),
    (PRODUCT, "The product of 17 and 23 is 381."),
    (PRODUCT, "It is 381, not 391"),
    (PRODUCT, "3910"),
    (PRODUCT, "391, or perhaps 401"),
    (PRODUCT, "One could take 391. But the answer is 400."),
    (CUPS, "Tom has 5 cups left."),
    (CUPS, "Two cups are left."),
    (CUPS, "Twenty-three cups are left."),
    (PLANET, "C"),
    (SCURVY, "C"),
    (SCURVY, "C) vitamin D, and vitamin C helps"),
    (NEUTRAL, "No particle is."),
    (PLANET, "Mars"),
    (PLANET, "Jupiter and Earth are both large planets."),
    (FOLLOWS, "No"),
    (FOLLOWS, "No, that does not follow. Yes would be wrong."),
    (POTASSIUM, "P"),
    (POTASSIUM, "K is for kilo, so the symbol is Po."),
    (NINE, "XIX"),
    (NINE, "I think it is XI."),
    (CINCO, "ochenta y cinco"),
    (CINCO, "It is doscientos cinco in Spanish."),
    (REVERSED, "d, c, b, a"),
    (REVERSED, "c, b, a, c"),
    (SORTED, "Sorting 3, 1, 2 gives [1, 3, 2]. This is the list, sorted."),
    (ANN, '{"name": "Ann", "age": 6}'),
    (ANN, '{"name": "Ann", "age": 5} or {"name": "Ann", "age": 6}'),
    (MOTHER, "Mary is Ann's grandmother."),
    (MOTHER, "Mary is Ann's mother-in-law."),
    (question("?", "5", scorer="number"), "-5"),
    (question("?", "5", scorer="number"), "none at all"),
    (question("?", "doce", scorer="exact"), "trece"),
    (question("?", "3, 12, 40", scorer="exact"), "3, 124, 0"),
    (question("?", "0.5", scorer="math"), r"\boxed{\frac{1}{3}}"),
]


@pytest.mark.parametrize(("asked", "said"), RIGHT, ids=lambda value: str(getattr(value, "answer", value))[:40])
def test_a_right_answer_counts_however_it_is_said(asked: Question, said: str) -> None:
    assert is_right(said, asked)


@pytest.mark.parametrize(("asked", "said"), WRONG, ids=lambda value: str(getattr(value, "answer", value))[:40])
def test_the_right_words_do_not_make_an_answer_right(asked: Question, said: str) -> None:
    assert not is_right(said, asked)


@pytest.mark.parametrize("scorer", ["exact", "number", "choice", "math", "program"])
def test_saying_nothing_is_never_right(scorer: str) -> None:
    wanted = question("?", SQUARE if scorer == "program" else "5", scorer=scorer)
    assert not is_right("", wanted)
    assert not is_right(" \n", wanted)


def test_every_answer_that_a_question_accepts_is_right() -> None:
    river = replace(question("Which river?", "Danube", scorer="exact"), accepted=("the Danube", "Donau"))
    assert all(is_right(said, river) for said in ("Danube", "The Danube", "It is the Danube.", "Donau"))
    assert not is_right("Rhine", river)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_answer_of_a_family_is_as_right_in_a_sentence_and_no_other_answer_is(family: str) -> None:
    drawn = mixed_suite(12, "test", 3, [family])
    for asked in drawn:
        assert is_right(f"The answer is {asked.answer}.", asked)
        others = {q.answer for q in drawn if not is_right(q.answer, asked)}
        assert not any(is_right(f"The answer is {other}.", asked) for other in others)


@given(st.text(max_size=200))
def test_whatever_is_said_can_be_marked(said: str) -> None:
    for asked in (CAPITAL, PRODUCT, PLANET, FOLLOWS, POTASSIUM, ANN):
        is_right(said, asked)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("def square(n):\n    return n * n", True),
        ("Here it is:\n\n```python\ndef square(n):\n    return n ** 2\n```\nIt multiplies n by itself.", True),
        ("```python\ndef square(n):\n    return n * n\n```\nFor example:\n```python\nprint(square(3))\n```", True),
        ("```python\ndef square(n):\n    return n + n\n```", False),
        ("```python\ndef square(n)\n    return n * n\n```", False),
        ("Multiply the number by itself.", False),
        ("def square(n):\n    return len(bytearray(1 << 40))", False),
        ("import sys\ndef square(n):\n    sys.exit(0)", False),
    ],
)
def test_a_program_is_right_where_its_tests_pass_within_limits(said: str, right: bool) -> None:
    assert is_right(said, question("Write a Python function square(n).", SQUARE, scorer="program")) is right


def test_a_program_without_end_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "SECONDS", 1)
    assert not passes("def square(n):\n    while True: pass", SQUARE)


def test_of_a_text_only_the_python_is_run() -> None:
    said = "```bash\npip install square\n```\n```python\ndef square(n):\n    return n * n\n```"
    assert program_in(said) == "def square(n):\n    return n * n\n"
    assert passes(program_in(said), SQUARE)


def test_a_question_is_asked_without_its_answer_or_its_scorer() -> None:
    asked = as_query(question("What?", "SECRET", scorer="choice", ident="7"), SamplingConfig(max_tokens=9, top_p=0.5))
    assert asked.id == "7"
    assert asked.messages == (Message("user", "What?"),)
    assert asked.sampling == Sampling(9, 0.0, 0.5)
    assert asked.kind == "auto"
    assert "SECRET" not in repr(asked)


QUESTIONS = tuple(question(f"number {n}", f"a: number {n}", ident=str(n)) for n in range(4))


def matrix(**right: str) -> Matrix:
    """`1` for right and `0` for wrong, expert by expert."""
    rows = {expert: tuple(mark == "1" for mark in marks) for expert, marks in right.items()}
    return Matrix(QUESTIONS, rows, seconds=1.0, spent=dict.fromkeys(right, 10), texts={})


def test_the_best_single_expert_is_the_one_right_most_often() -> None:
    found = matrix(a="0011", b="1110", c="1000")
    assert found.best_single == "b"
    assert [found.accuracy(expert) for expert in "abc"] == [0.5, 0.75, 0.25]


def test_of_equally_good_experts_the_first_of_the_pool_is_the_best() -> None:
    assert matrix(a="1000", b="0110", c="1001").best_single == "b"


def test_the_oracle_is_right_where_anybody_is() -> None:
    assert matrix(a="0010", b="1000").any_right == (True, False, True, False)


def test_what_is_known_already_is_not_asked_again() -> None:
    engine = EchoEngine()
    parts = echo_parts({"a": {"s": 1}}, engine=engine)
    before = Candidate("2", "a", 0, "said before", "stop", 3, 7, "resident")
    found = run_matrix(parts.executor, ["a"], parts.models, QUESTIONS, SamplingConfig(), known=[before])
    assert found.texts["a"] == ("a: number 0", "a: number 1", "said before", "a: number 3")
    assert found.spent == {"a": 3 * 3 + 7}


def test_every_expert_is_asked_every_question_after_one_load_each() -> None:
    engine, loads = EchoEngine(), list[Load]()
    parts = echo_parts({"a": {"s": 1}, "b": {"s": 1}}, engine=engine)
    watch = Watch(loaded=loads.append)
    found = run_matrix(parts.executor, ["a", "b"], parts.models, QUESTIONS, SamplingConfig(), watch)
    # each echoes its own name, and the answers are those of a
    assert found.right == {"a": (True,) * 4, "b": (False,) * 4}
    assert found.texts == {name: tuple(f"{name}: number {n}" for n in range(4)) for name in "ab"}
    assert [load.expert for load in loads] == ["a", "b"]
    assert (engine.started, engine.swaps) == (1, 2)
    assert found.spent == {"a": 4 * 3, "b": 4 * 3}
    assert found.tokens == 2 * 4 * 3
    assert found.questions == QUESTIONS


def test_questions_of_one_text_are_generated_once_and_all_scored() -> None:
    twice = [question("number 1", "a: number 1", ident="x"), question("number 1", "other", ident="y")]
    parts = echo_parts({"a": {"s": 1}})
    found = run_matrix(parts.executor, ["a"], parts.models, twice, SamplingConfig())
    assert found.right == {"a": (True, False)}
    assert found.texts == {"a": ("a: number 1", "a: number 1")}
    assert found.spent == {"a": 3}


def test_only_the_experts_asked_for_are_loaded() -> None:
    loads: list[Load] = []
    parts = echo_parts({"a": {"s": 1}, "b": {"s": 1}})
    watch = Watch(loaded=loads.append)
    found = run_matrix(parts.executor, ["b"], parts.models, QUESTIONS, SamplingConfig(), watch)
    assert list(found.right) == list(found.spent) == [load.expert for load in loads] == ["b"]


def test_the_tokens_of_a_matrix_are_those_of_all_its_experts() -> None:
    assert matrix(a="0000", b="1111", c="0101").tokens == 30
    assert Matrix((), {}, 0.0, {}, {}).tokens == 0


def test_an_expert_of_many_words_spends_more_than_one_of_few() -> None:
    weights = {"a": ExpertWeights("base", "in a few words"), "b": ExpertWeights("base", "b")}
    parts = echo_parts({"a": {"s": 1}, "b": {"s": 1}}, weights.__getitem__)
    found = run_matrix(parts.executor, ["a", "b"], parts.models, QUESTIONS, SamplingConfig())
    assert found.spent == {"a": 4 * 6, "b": 4 * 3}


def test_equal_ways_differ_by_nothing_for_sure() -> None:
    right = [1.0, 0.0, 1.0, 1.0, 0.0]
    assert paired(right, right, 0) == {"points": 0.0, "ci95": [0.0, 0.0]}


def test_a_difference_is_in_points_and_has_the_sign_of_the_first() -> None:
    assert paired([1.0] * 4, [1.0, 1.0, 1.0, 0.0], 0)["points"] == 25.0
    assert paired([1.0, 1.0, 1.0, 0.0], [1.0] * 4, 0)["points"] == -25.0


def test_the_interval_is_that_of_the_normal_approximation_where_questions_are_many() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(2000) < 0.7, rng.random(2000) < 0.6
    found = paired(first, second, 0)
    differences = first.astype(float) - second.astype(float)
    half = 100 * 1.96 * differences.std() / np.sqrt(len(differences))
    assert found["ci95"] == pytest.approx([found["points"] - half, found["points"] + half], abs=0.15)


def test_pairing_cancels_what_both_find_hard() -> None:
    hard = np.random.default_rng(2).random(400) < 0.5
    better = hard.copy()
    better[np.flatnonzero(~hard)[:20]] = True
    found, alone = paired(better, hard, 0), estimate(better, 0)
    assert found["points"] == 5.0
    assert found["ci95"][0] > 2.5  # the accuracies themselves are known to 5 points only
    assert found["ci95"][1] - found["ci95"][0] < (alone["ci95"][1] - alone["ci95"][0]) / 2


def test_an_accuracy_is_in_percent_and_the_same_under_the_same_seed() -> None:
    right = [1.0, 0.0, 0.0, 0.0]
    assert estimate(right, 3)["points"] == 25.0
    assert estimate(right, 3) == estimate(right, 3)
    assert estimate([1.0] * 10, 0) == {"points": 100.0, "ci95": [100.0, 100.0]}


def test_intervals_of_no_difference_hold_zero_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for turn in range(60):
        first, second = rng.random(80) < 0.5, rng.random(80) < 0.5
        low, high = paired(first, second, turn)["ci95"]
        held += low <= 0 <= high
    assert 51 <= held <= 60
    assert RESAMPLES >= 1000
