from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.extraction import extract
from symmoe.config import read_pool
from symmoe.errors import RecordsError
from symmoe.questions.suites import write_suite
from symmoe.records.files import AskedQuestion, RecordedAnswer, Records, read_records, write_records
from symmoe.records.importing import from_mmlu_pro, read_traces
from symmoe.types import Message

from ..cli.conftest import Symmoe
from ..cli.conftest import symmoe_command as symmoe_command
from ..conftest import echo_pool
from ..fakes import question
from .conftest import EXPERTS, recorded


def written(path: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_what_a_batch_wrote_becomes_records_that_answer_the_same(symmoe_command: Symmoe, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path / "pool")
    asked = written(
        tmp_path / "in.jsonl", {"id": "a", "prompt": "sums 1"}, {"id": "b", "prompt": "spanish 2"}, {"id": "c"}
    )
    symmoe_command("batch", "run", asked, "-o", tmp_path / "out.jsonl", "--pool", pool)
    write_suite(tmp_path / "suite.jsonl", [question("sums 1", "adder: sums 1", ident="a")])
    said = symmoe_command(
        "records", "import", asked, tmp_path / "out.trace.jsonl", "-o", tmp_path / "records",
        "--suite", tmp_path / "suite.jsonl", "--pool", pool, "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert (said.json["questions"], said.json["known"]) == (2, 1)
    records = read_records(tmp_path / "records")
    assert {name: dict(given) for name, given in records.answers.items()}["adder"]["a"].text == "adder: sums 1"
    assert read_pool(said.json["pool"]).names == tuple(records.answers)


def test_rows_are_read_as_the_batch_read_them(symmoe_command: Symmoe, tmp_path: Path) -> None:
    asked = written(tmp_path / "in.jsonl", {"key": "x", "title": "sums", "prompt": "of no use"})
    how = ("--prompt", "{{ title }} 1", "--id-column", "key", "--system", "Be brief.", "--pool", echo_pool(tmp_path))
    assert symmoe_command("batch", "run", asked, "-o", tmp_path / "out.jsonl", *how).code == 0
    said = symmoe_command("records", "import", asked, tmp_path / "out.trace.jsonl", "-o", tmp_path / "kept", *how)
    assert said.code == 0, said.err
    (question,) = read_records(tmp_path / "kept").questions
    assert (question.id, [turn.content for turn in question.messages]) == ("x", ["Be brief.", "sums 1"])
    again = symmoe_command("records", "import", asked, tmp_path / "out.trace.jsonl", "-o", tmp_path / "kept", *how)
    assert again.code == 2
    assert "holds records already" in again.err


def test_rows_of_a_service_with_traces_are_read_by_their_lines_ids(tmp_path: Path) -> None:
    said = {"expert": "adder", "slot": 0, "text": "3", "finish_reason": "stop"}
    trace = {"query_id": "0", "candidates": [said | {"prompt_tokens": 2, "completion_tokens": 1}], "way": "single"}
    other = trace | {"query_id": "1"}
    row = {"custom_id": "a", "response": {"body": {"symmoe": {"traces": [trace, other]}}}}
    (found,) = read_traces(written(tmp_path / "rows.jsonl", row))
    assert (found.query_id, found.candidates[0].text) == ("a", "3")


@pytest.mark.parametrize(
    ("row", "told"),
    [({"custom_id": "a", "response": None}, "no traces in it"), ({"candidates": 3}, "line 1: not a trace"),
     ([], "line 1: not a trace")],
)  # fmt: skip
def test_files_without_traces_are_told(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(RecordsError, match=told):
        list(read_traces(written(tmp_path / "rows.jsonl", row)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    item = {"options": ["one", "two", "three"], "category": "math", "paper_validation": False}
    written(
        tmp_path / "questions.jsonl.gz",
        {"id": 1, "question": "Which?", "answer": "B", **item},
        {"id": 2, "question": "Which else?", "answer": "C", **item},
        {"id": 3, "question": "Which?", "answer": "B", **item},
    )
    further = "Two it is. The answer is (B).\n\nQuestion:\nWho?\nThe answer is (C)."
    written(
        tmp_path / "base.jsonl.gz",
        {"id": 1, "pred": "B", "text": further},
        {"id": 2, "pred": "C", "text": "I go on and on"},
        {"id": 3, "pred": "A", "text": "The answer is (A)."},
    )
    written(tmp_path / "letters.jsonl.gz", *({"id": n, "pred": {"large": "C", "shy": None}} for n in (1, 2, 3)))
    return tmp_path


def test_public_answers_count_as_those_who_recorded_them_read_them(data: Path) -> None:
    records = from_mmlu_pro(data, letters=True)
    assert [(q.id, q.text, q.answer) for q in records.questions] == [
        ("1", "Which?\nA. one\nB. two\nC. three", "B"),
        ("2", "Which else?\nA. one\nB. two\nC. three", "C"),
    ]
    assert records.answers["base"]["1"].text == "Two it is. The answer is (B)."
    read = {name: [extract(given.text, "choice") for given in own.values()] for name, own in records.answers.items()}
    assert read == {"base": ["B", "C"], "large": ["C", "C"], "shy": [None, None]}
    assert list(from_mmlu_pro(data).answers) == ["base"]


def test_public_answers_cut_short_are_told(data: Path) -> None:
    file = data / "base.jsonl.gz"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(RecordsError, match=r"base\.jsonl\.gz: cut short or damaged"):
        from_mmlu_pro(data)
    written(file, {"id": 1, "pred": 3, "text": ""})
    with pytest.raises(RecordsError, match=r"base\.jsonl\.gz: line 1: pred: Input should be a valid string"):
        from_mmlu_pro(data)


def test_records_are_checked_and_divided_by_commands(symmoe_command: Symmoe, directory: Path, tmp_path: Path) -> None:
    assert symmoe_command("records", "check", directory, "--json").json["questions"] == 12
    said = symmoe_command(
        "records", "split", directory, "--first", tmp_path / "a", "--rest", tmp_path / "b", "--family", "sums", "--json"
    )
    assert [part["questions"] for part in said.json] == [8, 4]
    assert len(read_records(tmp_path / "b").questions) == 4
    (directory / "answers" / "adder.jsonl.gz").unlink()
    said = symmoe_command("records", "check", directory)
    assert (said.code, len(said.errors)) == (2, 1)


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
    "no format": (lambda d: (d / "records.json").write_text("[]"), "records.json: not a JSON object"),
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
