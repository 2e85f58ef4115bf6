from __future__ import annotations

import datetime
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.build import Assembly, pool_taxonomy
from symmoe.config import read_pool
from symmoe.errors import SuiteError
from symmoe.profiles.marking import as_query, is_right
from symmoe.questions.families import FAMILIES, roman, spanish
from symmoe.questions.suites import (
    Split,
    draw,
    everyday_suite,
    general_suite,
    mixed_suite,
    read_suite,
    split_of,
    write_suite,
)
from symmoe.types import Question
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


SPLITS: tuple[Split, ...] = get_args(Split)


def take(family: str, split: Split, seed: int, most: int = 60) -> list[Any]:
    return list(islice(draw(family, split, seed), most))


def test_everyday_questions_of_two_splits_have_nothing_in_common_and_their_answers_pass() -> None:
    profile, test = everyday_suite("profile"), everyday_suite("test")
    assert (len(profile), len(test)) == (200, 68)
    assert len({q.question.casefold() for q in profile + test}) == 268
    assert len({q.id for q in profile + test}) == 268
    for asked in profile + test:
        assert asked.scorer == "program" or all(is_right(a, asked) for a in (asked.answer, *asked.accepted)), asked.id


def test_the_general_suite_calls_for_every_skill_of_the_general_taxonomy() -> None:
    pool = read_pool("starter")
    suite = general_suite(15, "profile", 0)
    assert len(suite) == 350
    tagged = Assembly(pool).tagger.tag([as_query(question, pool.sampling) for question in suite])
    assert {skill.name for skill in pool_taxonomy(pool)} == {
        needed.matches[0].skill for needed in tagged if needed.matches
    }


@pytest.mark.parametrize("family", ["arithmetic", "dates", "json", "radio", "roman", "spanish"])
def test_no_text_stands_in_two_splits_whatever_the_seeds(family: str) -> None:
    texts = {split: {q.question for seed in (0, 1, 2) for q in take(family, split, seed)} for split in SPLITS}
    assert all(texts.values())
    assert not texts["train"] & texts["profile"]
    assert not texts["train"] & texts["test"]
    assert not texts["profile"] & texts["test"]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_each_question_belongs_to_the_split_that_it_was_drawn_for(family: str) -> None:
    for split in SPLITS:
        assert {split_of(q.question) for q in take(family, split, 7, most=8)} == {split}


def test_no_seed_of_one_split_is_a_seed_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[str] = []

    class Recorded:
        def __init__(self, seed: str) -> None:
            seeds.append(seed)

    monkeypatch.setattr("symmoe.questions.suites.Random", Recorded)
    monkeypatch.setattr("symmoe.questions.suites.FAMILIES", {"roman": Broken()})
    for split in SPLITS:
        for seed in (0, 999_999):
            with pytest.raises(EOFError):
                next(draw("roman", split, seed))
    numbers = [int(seed.removeprefix("roman/")) for seed in seeds]
    assert numbers == sorted(set(numbers))


class Broken:
    def draw(self, rng: object) -> tuple[str, str]:
        raise EOFError


@pytest.mark.parametrize("seed", [-1, 1_000_000])
def test_a_seed_outside_the_range_of_its_split_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"not {seed}"):
        next(draw("roman", "train", seed))


def test_equal_seeds_draw_equal_questions_and_other_seeds_others() -> None:
    assert take("roman", "test", 3) == take("roman", "test", 3)
    assert take("roman", "test", 3) != take("roman", "test", 4)


def test_no_question_is_drawn_twice_and_no_id_is_given_twice() -> None:
    drawn = take("arithmetic", "train", 0, most=400)
    assert len({q.question for q in drawn}) == len({q.id for q in drawn}) == 400


def test_a_family_that_runs_dry_ends() -> None:
    drawn = list(draw("spanish", "test", 0))
    assert 60 < len(drawn) < 140
    assert len({q.question for q in drawn}) == len(drawn)


def test_about_four_texts_in_five_are_for_training() -> None:
    counts = Counter(split_of(f"text {number}") for number in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.03)
    assert counts["profile"] / 5000 == pytest.approx(0.1, abs=0.02)


def test_a_mixed_suite_has_as_many_of_every_family_in_an_order_that_its_seed_decides() -> None:
    suite = mixed_suite(5, "profile", 0, ["roman", "spanish"])
    assert Counter(q.family for q in suite) == {"roman": 5, "spanish": 5}
    assert suite == mixed_suite(5, "profile", 0, ["roman", "spanish"])
    assert [q.family for q in suite] != ["roman"] * 5 + ["spanish"] * 5


GOOD = {"id": "1", "question": "What?", "answer": "That."}
line_ends = "\x85\u2028\u2029"
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=line_ends), min_size=1)
questions = st.builds(Question, text, text, text, text, st.sampled_from(["exact", "number", "choice", "math"]))


@given(st.lists(questions, min_size=1, unique_by=lambda q: q.id))
def test_a_written_suite_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, suite: list[Question]) -> None:
    path = tmp_path_factory.getbasetemp() / "suites" / "suite.jsonl"
    write_suite(path, suite)
    assert read_suite(path) == suite


@pytest.mark.parametrize("character", list(line_ends))
def test_a_question_with_an_unusual_line_end_in_it_reads_back_equal(tmp_path: Path, character: str) -> None:
    suite = [Question("1", f"One{character}two?", "three", "all", "exact")]
    write_suite(tmp_path / "suite.jsonl", suite)
    assert read_suite(tmp_path / "suite.jsonl") == suite


def test_a_drawn_suite_reads_back_equal(tmp_path: Path) -> None:
    suite = mixed_suite(4, "test", 0, ["spanish", "json", "radio"])
    write_suite(tmp_path / "new" / "suite.jsonl", suite)
    assert read_suite(tmp_path / "new" / "suite.jsonl") == suite


def test_family_and_scorer_may_be_left_out_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text(f"\n{json.dumps(GOOD)}\n\n", encoding="utf-8")
    assert read_suite(path) == [Question("1", "What?", "That.", "all", "exact")]


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ("{", " is not valid JSON"),
        ("[]", " is not a JSON object"),
        (json.dumps(GOOD | {"id": "2", "scorer": "guess"}), ": scorer: "),
        (json.dumps(GOOD | {"id": "2", "answer": ""}), ": answer: "),
        (json.dumps(GOOD | {"id": 2}), ": id: "),
        (json.dumps({"id": "2", "question": "What?"}), ": no known answer; its columns are id, question"),
        (json.dumps({"id": "2", "text": "What?", "answer": "a"}), ": no column that is known to hold a question"),
        (json.dumps(GOOD), ": id '1' stands there twice"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_field(tmp_path: Path, bad: str, place: str) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{bad}\n", encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: line 3{place}")
    assert "\n" not in str(caught.value)


def test_an_empty_suite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(SuiteError, match="no questions"):
        read_suite(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfea"])
def test_a_file_that_is_missing_or_no_text_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "suite.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SuiteError) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("gsm8k.jsonl", [("26", "number"), ("15", "number"), ("100", "number")]),
        ("math.jsonl", [("3", "number"), (r"\frac{3}{4}", "math")]),
        ("arc.jsonl", [("B", "choice"), ("B", "choice")]),
        ("commonsense_qa.jsonl", [("A", "choice")]),
        ("mmlu_pro.parquet", [("E", "choice")]),
        ("truthfulqa.csv", [("No, they remember for months", "exact"), ("Good luck", "exact")]),
        ("alpaca.json", [("Shorter showers, full washing machines, and a barrel for rain.", "exact")]),
    ],
)
def test_a_public_file_with_known_answers_is_a_suite(name: str, answers: list[tuple[str, str]]) -> None:
    suite = read_suite(Path(__file__).parent.parent / "batch" / "public" / name)
    assert [(question.answer, question.scorer) for question in suite][: len(answers)] == answers


def test_rows_without_an_id_are_told_apart_in_several_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"question": "' + name + '?", "answer": "1"}\n', encoding="utf-8")
    assert [question.id for question in read_suite(tmp_path)] == ["1", "2"]
