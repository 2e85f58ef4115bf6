from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from symmoe.batch import job
from symmoe.batch.checking import verify
from symmoe.batch.lines import BadLine
from symmoe.batch.naming import NamingProcess
from symmoe.batch.output import START, Mark, open_output
from symmoe.bench.lines import echo_pool
from symmoe.build import build_embedder, build_tagger
from symmoe.config import TINY
from symmoe.errors import JobError
from symmoe.rows.reading import Row
from symmoe.types import Message, Query, Sampling, Skills

from .conftest import Bench, CountingEngine, questions


class Beside:
    """Stands in for the process: names as the job's own tagger, and notes what it was asked."""

    made: list[Beside]

    def __init__(self, pool: object, own: Any) -> None:
        self._own, self.asked, self.begun, self.closed = own, 0, 0, False
        Beside.made.append(self)

    @staticmethod
    def serves(tagger: object) -> bool:
        return True

    @property
    def ready(self) -> bool:
        return True

    def begin(self, queries: Sequence[Query]) -> None:
        self._begun = list(queries)
        self.begun += len(queries)

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        assert not self.begun or queries == self._begun
        self.asked += len(queries)
        return list(self._own.tag(queries))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("limits", [0.0, 10.0])
def test_a_fast_job_of_many_lines_names_skills_in_a_process_and_answers_alike(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, limits: float
) -> None:
    Beside.made = []
    bench.write(*questions(2000))
    bench.run()
    alone = bench.output.read_bytes(), bench.traces()
    monkeypatch.setattr(job, "NamingProcess", Beside)
    bench.run()
    assert Beside.made == []  # so few lines are no reason
    monkeypatch.setattr(job, "MANY", 256)
    monkeypatch.setattr(job, "FAST", 0.0)
    monkeypatch.setattr(job, "LIMITS", limits)
    bench.engine = CountingEngine()
    bench.run()
    (made,) = Beside.made
    assert 0 < made.asked < 2000
    assert bool(made.begun) == (limits == 0.0), "what waits for its engines is read by a thread meanwhile"
    assert made.closed
    assert (bench.output.read_bytes(), bench.traces()) == alone


def test_a_job_goes_on_where_there_is_no_room_for_a_process_that_names_skills(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRoom(Beside):
        def __init__(self, pool: object, own: Any) -> None:
            raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(job, "NamingProcess", NoRoom)
    monkeypatch.setattr(job, "MANY", 256)
    monkeypatch.setattr(job, "FAST", 0.0)
    bench.write(*questions(2000))
    assert bench.run().answered == 2000


@pytest.mark.slow
def test_the_process_names_what_the_pools_own_tagger_names_also_after_it_was_killed(state: object) -> None:
    pool = echo_pool(TINY)
    own = build_tagger(pool, build_embedder(pool))
    texts = [
        "Reverse the list: a b c",
        "How many days are in 3 weeks?",
        "Escribe 12 en números romanos",
        "",
        "é" * 3000,
    ]
    asked = [Query(str(n), (Message("user", text),), Sampling(16)) for n, text in enumerate(texts)]
    process = NamingProcess(pool, own)
    assert NamingProcess.serves(own) == (len(os.sched_getaffinity(0)) > 1)
    assert process.tag(asked) == own.tag(asked)
    assert process.ready
    process.begin(asked[1:])
    assert process.tag(asked[1:]) == own.tag(asked[1:])
    process.begin(asked)
    os.kill(process.pid, signal.SIGKILL)
    assert process.tag(asked) == own.tag(asked)
    assert not process.ready
    process.close()


ROWS: list[Any] = [
    {"n": 1, "text": "a", "list": [1]},
    {"n": None, "text": "b", "list": None},
    {"n": 2**70, "text": 3, "more": {"x": 1.5}},
    "no row at all",
    {"n": 2.5, "answer": "own"},
]


def line(number: int) -> BadLine:
    return BadLine(number, f"q{number}", "broken", "is broken", origin=Row("in", number, ROWS[number - 1]), door="")


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows = [row for part in sorted(path.iterdir()) for row in parquet.read_table(part).to_pylist()]
        return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def written(path: Path, numbers: range, at: Mark = START) -> Mark:
    writer = open_output(path, "job", 0, at)
    for number in numbers:
        writer.write(line(number), [])
    mark = writer.flush()
    writer.close()
    return mark


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_first_rows_of_a_table_decide_its_columns_and_nothing_of_later_ones_is_lost(
    tmp_path: Path, name: str
) -> None:
    mark = written(tmp_path / name, range(1, 3))
    assert mark.rows == 2
    written(tmp_path / name, range(3, 6), mark)
    rows = read(tmp_path / name)
    assert [row["symmoe_id"] for row in rows] == ["q1", "q2", "q3", "q4", "q5"]
    assert [row["n"] for row in rows] == ["1", "", "", "", ""]
    assert [row["text"] for row in rows] == ["a", "b", "3", "", ""]
    assert rows[0]["list"] == "[1]"
    others = [json.loads(row["symmoe_other"] or "null") for row in rows]
    assert others == [
        None,
        None,
        {"n": 2**70, "more": {"x": 1.5}},
        {"symmoe_input": ROWS[3]},
        {"n": 2.5, "answer": "own"},
    ]
    assert {row["answer"] for row in rows} == {""}


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_cells_of_every_type_can_be_read_back(bench: Bench, name: str) -> None:
    cells = {"at": [datetime(2024, 1, 1), None], "sum": [Decimal("1.50"), None], "raw": [b"xy", None], "x": [1.5, 2.0]}
    parquet.write_table(pyarrow.table({"prompt": ["sums\r1", "sums 2"], **cells}), bench.folder / "in.parquet")
    for _ in range(2):
        bench.run(source=bench.folder / "in.parquet", output=bench.folder / name)
        assert verify([bench.folder / "in.parquet"], bench.folder / name).whole
        first, second = read(bench.folder / name)
        assert (first["prompt"], first["at"], first["sum"], first["raw"]) == (
            "sums\r1", "2024-01-01 00:00:00", "1.50", "xy"
        )  # fmt: skip
        assert (second["prompt"], second["at"], second["x"]) == ("sums 2", "", "2.0")


_VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_ANY_TEXT = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs too


@given(row=st.dictionaries(_ANY_TEXT, _VALUES | _ANY_TEXT | st.lists(_VALUES)))
def test_a_row_is_one_line_of_ascii_and_reads_back_as_it_came(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]
) -> None:
    out = tmp_path_factory.mktemp("rows") / "out.jsonl"
    rows = open_output(out, "job", 0)
    asked = {f"_{name}": value for name, value in row.items()}  # no name that means something
    rows.write(BadLine(1, None, "unknown_shape", "no question", origin=Row(number=1, row=asked), door=""), [])
    rows.close()
    (line,) = out.read_text(encoding="ascii").split("\n")[:-1]
    read_back = json.loads(line)
    assert {name: value for name, value in read_back.items() if name.startswith("_")} == asked


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_numbers_that_a_column_or_json_cannot_hold_cost_no_job(bench: Bench, name: str) -> None:
    bench.write(
        {"prompt": "sums 1", "x": 1.5}, {"prompt": "sums 2", "x": 2**53 + 1}, b'{"prompt": "sums 3", "x": 1e999}'
    )
    assert bench.run(output=bench.folder / name).answered == 3
    if name == "out.jsonl":
        assert [row["x"] for row in bench.rows()] == [1.5, 2**53 + 1, None]
    else:
        assert json.loads(read(bench.folder / name)[1]["symmoe_other"]) == {"x": 2**53 + 1}


def test_a_folder_takes_the_place_of_a_file_and_of_the_one_kept_before(bench: Bench) -> None:
    bench.write({"prompt": "sums 1"})
    output = bench.folder / "out.parquet"
    output.write_bytes(b"of another program")
    for _ in range(3):
        assert bench.run(output=output).answered == 1


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_what_stands_behind_a_mark_is_written_again_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    mark = Mark(**json.loads(json.dumps(asdict(written(path, range(1, 3))))))
    whole = written(path, range(3, 6), mark)
    again = written(path, range(3, 6), mark)
    assert again == whole
    rows = [json.loads(row) for row in path.read_bytes().splitlines()] if name == "out.jsonl" else read(path)
    assert [row["symmoe_id"] for row in rows] == ["q1", "q2", "q3", "q4", "q5"]
    with pytest.raises(JobError, match="than it"):
        open_output(path, "job", 0, Mark(9, 10**6, whole.columns))


def request(url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": url, "method": "POST", "url": url, "body": {"model": "adder", **body}}


def test_every_door_is_answered_in_its_own_form(bench: Bench) -> None:
    turn = [{"role": "user", "content": "sums 1"}]
    bench.write(
        request("/v1/chat/completions", messages=turn),
        request("/v1/completions", prompt=["sums 1", "sums 2"], max_tokens=9),
        request("/v1/responses", input="sums 1"),
        {"custom_id": "messages", "params": {"model": "adder", "messages": turn, "max_tokens": 9}},
        request("/v1/embeddings", input="sums 1"),
        request("/v1/responses", input="sums 1", previous_response_id="resp_1") | {"custom_id": "goes on"},
        {"custom_id": "no", "params": {"messages": turn}},
    )
    assert (bench.run().answered, len(bench.rows())) == (4, 7)
    chat, text, response, message, other, on, no = bench.rows()
    assert chat["response"]["body"]["choices"][0]["message"]["content"] == "adder: sums 1"
    assert [choice["text"] for choice in text["response"]["body"]["choices"]] == ["adder: sums 1", "adder: sums 2"]
    assert text["response"]["body"]["object"] == "text_completion"
    assert response["response"]["body"]["output"][0]["content"][0]["text"] == "adder: sums 1"
    assert message["result"]["message"]["content"] == [{"type": "text", "text": "adder: sums 1"}]
    assert message["result"]["type"] == "succeeded"
    assert other["error"]["code"] == "invalid_url"
    assert on["response"]["body"]["error"]["param"] == "previous_response_id"
    assert (no["custom_id"], no["result"]["type"]) == ("no", "errored")
    assert no["result"]["error"]["error"]["param"] == "max_tokens"
