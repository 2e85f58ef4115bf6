from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import SuiteError
from symmoe.questions.splits import mixed_suite
from symmoe.questions.suites import read_suite, write_suite
from symmoe.types import Question

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
    suite = mixed_suite(["spanish", "json", "radio"], 4, "test", 0)
    write_suite(tmp_path / "new" / "suite.jsonl", suite)
    assert read_suite(tmp_path / "new" / "suite.jsonl") == suite


def test_family_and_scorer_may_be_left_out_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text(f"\n{json.dumps(GOOD)}\n\n", encoding="utf-8")
    assert read_suite(path) == [Question("1", "What?", "That.", "all", "exact")]


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ("{", "line: Invalid JSON"),
        ("[]", "line: "),
        (json.dumps(GOOD | {"id": "2", "scorer": "guess"}), "scorer: "),
        (json.dumps(GOOD | {"id": "2", "answer": ""}), "answer: "),
        (json.dumps(GOOD | {"id": 2}), "id: "),
        (json.dumps(GOOD | {"id": "2", "why": ""}), "why: "),
        (json.dumps({"id": "2", "question": "What?"}), "answer: Field required"),
        (json.dumps(GOOD), "id '1' stands there twice"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_field(tmp_path: Path, bad: str, place: str) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{bad}\n", encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: line 3: {place}")
    assert "\n" not in str(caught.value)


def test_an_empty_suite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(SuiteError, match="no questions"):
        read_suite(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_is_missing_or_no_text_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "suite.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SuiteError) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: cannot be read")
