"""A directory of records: read as it was written, and refused with a reason where it cannot be relied on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import RecordsError
from symmoe.records.files import AskedQuestion, RecordedAnswer, Records, read_records, write_records
from symmoe.types import Message

from .conftest import EXPERTS, recorded

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
COUNTS = st.none() | st.integers(0, 1 << 40)
AMOUNTS = st.none() | st.floats(0, 1e9)
ANSWER = st.builds(RecordedAnswer, TEXTS, COUNTS, COUNTS, AMOUNTS, AMOUNTS, st.sampled_from(["stop", "length"]))
TURNS = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXTS.filter(bool)), min_size=1)


@given(st.lists(TURNS.map(tuple), min_size=1, max_size=4, unique=True), st.data())
def test_records_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[Message, ...]], data: st.DataObject
) -> None:
    questions = tuple(AskedQuestion(f"q{n}", messages, data.draw(st.none() | st.just("7")), "f", "exact")
                      for n, messages in enumerate(turns))  # fmt: skip
    ids = st.sampled_from([question.id for question in questions])
    answers = data.draw(st.dictionaries(st.sampled_from(EXPERTS), st.dictionaries(ids, ANSWER)))
    directory = tmp_path_factory.mktemp("records")
    write_records(directory, Records(questions, answers))
    read = read_records(directory)
    assert (read.questions, read.answers) == (questions, answers)


def test_plain_files_are_read_too(directory: Path, records: Records) -> None:
    for file in directory.rglob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert read_records(directory).answers == records.answers


def rewritten(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = gzip.decompress(file.read_bytes()).decode().splitlines(keepends=True)
    file.write_bytes(gzip.compress("".join(change(lines)).encode()))


def cut(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def counted(directory: Path, **changes: object) -> None:
    path = directory / "records.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda d: (d / "records.json").unlink(), "records.json: cannot be read"),
    "another format": (lambda d: counted(d, format=7), "format 7 is not 1"),
    "no format": (lambda d: (d / "records.json").write_text("[]"), "format None is not 1"),
    "manifest cut short": (lambda d: (d / "records.json").write_text('{"format": 1,'), "records.json: not JSON"),
    "missing expert": (lambda d: (d / "answers/adder.jsonl.gz").unlink(), "adder.jsonl.gz: no such file"),
    "gzip cut short": (lambda d: cut(d / "answers/adder.jsonl.gz"), "adder.jsonl.gz: cut short or damaged"),
    "not gzip": (lambda d: (d / "questions.jsonl.gz").write_bytes(b"{}"), "questions.jsonl.gz: cut short or damaged"),
    "lines missing": (
        lambda d: rewritten(d / "answers/adder.jsonl.gz", lambda lines: lines[:-1]),
        "adder.jsonl.gz: holds 11 lines and records.json says 12",
    ),
    "line cut short": (
        lambda d: rewritten(d / "answers/adder.jsonl.gz", lambda lines: [*lines[:-1], lines[-1][:9]]),
        "line 12: Invalid JSON: EOF while parsing a string at line 1 column 9; the file is cut short there",
    ),
    "two answers": (
        lambda d: rewritten(d / "answers/adder.jsonl.gz", lambda lines: [*lines[:-1], lines[0]]),
        "line 12: a second answer to 'q0'",
    ),
    "answer to nothing": (
        lambda d: rewritten(d / "answers/adder.jsonl.gz", lambda lines: [*lines[:-1], '{"id": "q99", "text": ""}\n']),
        "line 12: answers 'q99', which is no question",
    ),
    "question twice": (
        lambda d: rewritten(d / "questions.jsonl.gz", lambda lines: [*lines[:-1], lines[0]]),
        "line 12: id 'q0' stands there twice",
    ),
    "same words": (
        lambda d: rewritten(
            d / "questions.jsonl.gz", lambda lines: [*lines[:-1], lines[0].replace('"q0"', '"q11"')]
        ),
        "line 12: the words of 'q11' are those of 'q0'",
    ),
    "unknown field": (
        lambda d: rewritten(d / "questions.jsonl.gz", lambda lines: ['{"id": "q0", "prompt": "?"}\n', *lines[1:]]),
        "line 1: prompt: Extra inputs are not permitted",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_told_by_file_and_line(directory: Path, fault: str) -> None:
    breaking, told = FAULTS[fault]
    breaking(directory)
    with pytest.raises(RecordsError) as error:
        read_records(directory)
    assert str(directory) in str(error.value)
    assert told in str(error.value)


def test_an_expert_without_answers_and_questions_without_known_answers_are_told(records: Records) -> None:
    with pytest.raises(RecordsError, match="no answers of writer") as error:
        records.check(["adder", "writer"])
    assert error.value.hint == "there are those of: adder, speaker, sorter"
    with pytest.raises(RecordsError, match="no question has a known answer"):
        recorded(known=False).known()


def test_a_part_has_its_own_answers_only(records: Records) -> None:
    seen, hidden = records.divided(0.5, seed=0, hidden=["sums"])
    assert {question.family for question in hidden.questions} == {"sums"}
    assert len(seen.questions) + len(hidden.questions) == len(records.questions)
    for part in (seen, hidden):
        ids = {question.id for question in part.questions}
        assert all(set(given) == ids for given in part.answers.values())
    with pytest.raises(RecordsError, match="one part would hold no question"):
        records.divided(0.5, seed=0, hidden=["history"])
