from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from symmoe.errors import InputError, RequestError
from symmoe.rows.reading import MOST_ROW_BYTES, Row, Rows
from symmoe.rows.shapes import Asked, Reading, ShapeError, reference_of
from symmoe.types import Message


def asked(row: dict[str, Any], **reading: Any) -> Asked:
    return Reading(**reading).asked(row)


def text(row: dict[str, Any], **reading: Any) -> str:
    (message,) = asked(row, **reading).messages
    assert message.role == "user"
    return message.content


@pytest.mark.parametrize(
    "options",
    [
        {"choices": ["ice", "iron"]},
        {"options": ["A. ice", "B. iron"]},
        {"options": {"A": "ice", "B": "iron", "C": None}},
        {"choices": {"text": ["ice", "iron"], "label": ["A", "B"]}},
        {"choices": [{"label": "A", "text": "ice"}, {"label": "B", "text": "iron"}]},
        {"choices": '["ice", "iron"]'},
        {"choices": '{"text": ["ice", "iron"], "label": ["A", "B"]}'},
        {"A": "ice", "B": "iron", "C": ""},
    ],
)
def test_options_follow_the_question_each_after_its_letter(options: dict[str, Any]) -> None:
    assert text({"question": "What melts?", **options}) == "What melts?\nA. ice\nB. iron"


@pytest.mark.parametrize("options", [{"choices": "ice or iron"}, {"choices": 5}, {"choices": [["ice"]]}])
def test_options_that_are_none_are_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        asked({"question": "What melts?", **options})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"Question": "Why?"}, "Why?"),
        ({"instruction": "Sort.", "input": "b a"}, "Sort.\n\nb a"),
        ({"instruction": "Sort.", "input": None}, "Sort."),
        ({"question": "Who?", "passage": "Ada came."}, "Ada came.\n\nWho?"),
        ({"problem": "1+1?", "prompt": None, "question": ""}, "1+1?"),
        ({"prompt": "Why?", "messages": [{"role": "user", "content": "Why?"}]}, "Why?"),
        ({"prompt": [{"role": "user", "content": "Why?"}]}, "Why?"),
        ({"turns": '["Why?"]'}, "Why?"),
    ],
)
def test_a_shape_is_known_by_its_columns(row: dict[str, Any], says: str) -> None:
    assert text(row) == says


def test_a_conversation_is_asked_up_to_the_users_last_turn() -> None:
    said = [{"from": "system", "value": "S"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    said += [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}, {"from": "gpt", "value": "e"}]
    turns = (Message("system", "S"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert asked({"conversations": said}).messages == turns
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert text({"messages": parts}) == "ab"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a", "prompt": "b"},
        {"instruction": "a", "turns": ["a", "b"]},
        {"question": "a", "context": {"title": []}},
        {"text": "a"},
        {},
    ],
)
def test_a_row_that_could_be_asked_in_two_ways_or_in_none_names_its_columns(row: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match="its columns are") as caught:
        asked(row)
    assert all(repr(name) in str(caught.value) for name in row)
    assert "--prompt-column" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ""},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": ["a"]},
        {"messages": "a"},
        {"turns": ["a", ""]},
        {"turns": ["a", 5]},
        {"question": 5},
        {"conversations": [{"from": "nobody", "value": "a"}]},
    ],
)
def test_a_row_of_a_known_shape_with_nothing_to_ask_is_one_error_of_its_own(row: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        asked(row)
    assert not isinstance(caught.value, ShapeError)


def test_a_system_message_stands_first_unless_the_row_has_one() -> None:
    assert asked({"prompt": "a"}, system="S").messages == (Message("system", "S"), Message("user", "a"))
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]
    assert asked({"messages": own}, system="S").messages[0] == Message("system", "own")


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ({"question": "a", "answer": "4 + 9 = 13\n#### 13"}, "4 + 9 = 13\n#### 13"),
        ({"question": "a", "choices": ["x", "y"], "answer": 1}, "B"),
        ({"question": "a", "choices": ["x", "y"], "answer": "y"}, "B"),
        ({"question": "a", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),
        ({"question": "a", "gold_answer": 40}, "40"),
        ({"Question": "a", "Best Answer": "No"}, "No"),
        ({"problem": "a", "solution": r"\boxed{3}"}, r"\boxed{3}"),
        ({"question": "a", "answers": ["x"]}, None),
        ({"question": "a", "answer": None}, None),
    ],
)
def test_a_known_answer_is_found(row: dict[str, Any], known: str | None) -> None:
    assert reference_of(row) == known


_names = st.sampled_from(
    "prompt messages question problem instruction input conversations turns choices options context id A B text".split()
)
_said = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": st.text(max_size=3)})
_value = st.none() | st.text(max_size=4) | st.integers() | st.lists(st.text(max_size=3) | _said, max_size=3) | _said


@given(st.dictionaries(_names, _value, max_size=5))
def test_any_row_asks_something_or_says_what_is_wrong(row: dict[str, Any]) -> None:
    try:
        found = asked(row)
    except RequestError:
        return
    assert any(message.role == "user" for message in found.messages)
    assert found.shape.split(" + ")[0] in row


def test_half_a_surrogate_pair_written_in_a_cell_is_no_turn() -> None:
    with pytest.raises(RequestError, match="must be a list"):
        asked({"turns": r'["cut \ud83d"]'})


ROWS = [{"question": 'Say "a, b";\nor?', "n": 1}, {"question": "größer\u2028 数", "n": None}]
fuzzing = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder: Path, content: bytes, name: str = "in.jsonl") -> list[Row]:
    (folder / name).write_bytes(content)
    return list(Rows([folder / name]))


def values(rows: list[Row]) -> list[Any]:
    return [row.code or row.row for row in rows]


def as_csv(delimiter: str = ",", end: str = "\n") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "n"], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda raw: pyarrow.compress(raw, "zstd", asbytes=True)])
@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in", "in.txt", "in.csv"])
@pytest.mark.parametrize(
    "content",
    [LINES.encode(), LINES.encode("utf-8-sig"), LINES.encode("utf-16"), LINES.replace("\n", "\r\n").encode("utf-32"),
     json.dumps(ROWS).encode(), json.dumps(ROWS, indent=2).encode("utf-16")],
)  # fmt: skip
def test_json_is_read_however_it_is_called_packed_and_encoded(
    tmp_path: Path, content: bytes, name: str, pack: Callable[[bytes], bytes]
) -> None:
    assert values(read(tmp_path, pack(content), name)) == ROWS


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.txt", "in", "in.jsonl"])
@pytest.mark.parametrize("content", [as_csv(), as_csv(";"), as_csv("\t", "\r\n"), as_csv("|")])
def test_a_table_is_read_however_it_is_called_and_cells_stay_texts(tmp_path: Path, content: bytes, name: str) -> None:
    cells = [{"question": row["question"], "n": str(row["n"] or "")} for row in ROWS]
    assert values(read(tmp_path, content, name)) == cells


def test_parquet_and_arrow_are_read(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "a.parquet")
    with ipc.new_stream(tmp_path / "b.arrow", table.schema) as stream:
        stream.write_table(table)
    with ipc.new_file(tmp_path / "c.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        assert values(list(Rows([tmp_path / name]))) == ROWS
    packed = gzip.compress((tmp_path / "a.parquet").read_bytes())
    assert values(read(tmp_path, packed, "d.parquet.gz")) == ROWS


def test_a_folder_that_datasets_saved_is_read_split_by_split(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        with ipc.new_stream(tmp_path / split / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (tmp_path / split / "state.json").write_text(json.dumps(state))
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert values(list(Rows([tmp_path / "test"]))) == ROWS
    with pytest.raises(InputError, match="holds the splits train, test"):
        Rows([tmp_path])


def test_files_are_read_in_order_from_folders_and_patterns_and_addresses(tmp_path: Path) -> None:
    import fsspec

    for number in (2, 1):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"n": {number}}}\n')
    (tmp_path / "README.md").write_text("not a question")
    (tmp_path / ".hidden.jsonl").write_text("{}")
    with fsspec.open("memory://questions/3.jsonl", "wb") as file:
        file.write(b'{"n": 3}\n')
    for sources in ([tmp_path], [tmp_path / "*.jsonl"], [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]):
        rows = list(Rows([*sources, "memory://questions/*.jsonl"]))
        assert [(row.row["n"], row.number, row.place or row.number) for row in rows] == [
            (1, 1, 1),
            (2, 1, 2),
            (3, 1, 3),
        ]


def test_the_cells_of_a_tsv_may_hold_commas_and_so_may_the_names_of_its_columns(tmp_path: Path) -> None:
    assert values(read(tmp_path, b"question\n1, 2 or 3?\n", "in.tsv")) == [{"question": "1, 2 or 3?"}]
    assert values(read(tmp_path, b"question, all\tn\n1, 2\t3\n", "in.tsv.gz")) == [{"question, all": "1, 2", "n": "3"}]


@pytest.mark.parametrize("header", [b'"question" ,n', b'question,"n"o "', b'question,"the "n"'])
def test_a_header_of_one_line_may_hold_quotes_as_they_come(tmp_path: Path, header: bytes) -> None:
    (row,) = values(read(tmp_path, header + b"\n1 + 1?,2\n", "in.csv"))
    assert (row["question"], len(row)) == ("1 + 1?", 2)


def test_a_page_s_address_may_be_signed_and_its_name_still_says_what_it_is(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("one;two\nx;1\n")  # a header that is none by its words
    (tmp_path / "page").write_text("prompt\nWhat is 1?\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            signed = list(Rows([f"{url}/1.csv?X-Signature=secret"]))
            several = list(Rows([f"{url}/*.csv"]))
            named = list(Rows([f"{url}/page?file=1.csv&X-Signature=secret"]))
            with pytest.raises(InputError) as lost:
                Rows([f"{url}/3.csv?X-Signature=secret"])
        finally:
            server.shutdown()
            thread.join()
    assert [(row.row, row.source) for row in signed] == [({"one": "x", "two": "1"}, f"{url}/1.csv")]
    assert [row.source for row in several] == [f"{url}/1.csv", f"{url}/2.csv"]
    assert values(named) == [{"prompt": "What is 1?"}]
    assert str(lost.value).startswith(f"{url}/3.csv: no file of questions there")


class Expiring(BaseHTTPRequestHandler):
    """A page of many questions, whose signature holds for a part of it."""

    content = b'{"prompt": "What is 1?"}\n' * 400_000

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        begin, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, len(self.content))
        part = self.content[begin:end] if self.command == "GET" and asked else b""
        self.send_response(403 if begin else 206 if asked else 200)
        self.send_header("accept-ranges", "bytes")
        self.send_header("content-length", str(len(part) if asked else len(self.content)))
        self.end_headers()
        self.wfile.write(part)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_signature_that_expires_ends_the_rows_of_a_page_in_a_fault_which_does_not_tell_it() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Expiring) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/1.jsonl"
            *rows, last = Rows([f"{url}?X-Signature=secret%2F1"])
        finally:
            server.shutdown()
            thread.join()
    assert len(rows) > 1000
    assert (last.code, last.source) == ("damaged_file", url)
    assert "403" in last.fault
    assert "secret" not in last.fault


def test_an_address_that_is_none_is_an_error_of_its_own() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Rows(["http://[none/1.csv"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.xlsx", b"PK\x03\x04", "Excel"),
        ("in.csv", b"PK\x03\x04", "Excel"),
        ("in.pdf", b"%PDF-1.7", "PDF"),
        ("in.dat", b"hello", "cannot be told what it is"),
        ("in.txt", "Wör\n".encode("utf-16-le"), "no text"),
        ("in.json", b'{\n"a": 1}', "one JSON object"),
        ("in.csv", b"a,b,a\n1,2,3\n", "two columns are called 'a'"),
        ("in.csv", b'a,"b\n1,2\n3,4\n', "header cannot be read"),
        ("in.csv", b"a,b\n1,\x002\xff\n", "no text"),
        ("in.jsonl", gzip.compress(b"x" * 99, mtime=0)[:-9], "damaged"),
        ("in.parquet", b"PAR1 and no more", "damaged"),
    ],
)
def test_what_is_no_file_of_questions_says_what_it_is(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path, content, name)


@pytest.mark.parametrize("name", ["none.jsonl", "none/*.jsonl", "s4://bucket/none.jsonl"])
def test_a_file_that_is_not_there_is_an_error_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        Rows([name if "://" in name else tmp_path / name])


ODD = [b"5", b"NaN", b'{"a": NaN}', b'{"a": 1' + b"0" * 5000 + b"}", b'{"a": "\xff"}', b"{]}"]


def test_rows_that_are_no_objects_are_one_error_each_in_a_list_as_in_lines(tmp_path: Path) -> None:
    for content in (b"\n".join([*ODD, b'{"a": 1}']), b"[{}," + b",".join([*ODD[:-1], b'{"a": 1}']) + b"]"):
        rows = read(tmp_path, content)
        assert {row.code for row in rows[1:-1]} == {"invalid_json_line"}
        assert rows[-1].row == {"a": 1}


def test_what_stands_in_a_row_stays_as_it_is_whatever_stood_there_before(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": None}] * 200
    rows += [{"a": 1}, {"a": "1"}, {"a": [1, "x", None]}, {"a": {"b": [{"c": 1e400 > 1}]}}, {"other": 2.5}]
    assert values(read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows).encode())) == rows
    assert values(read(tmp_path, json.dumps(rows).encode(), "in.json")) == rows


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in.csv", "in.txt"])
def test_a_row_of_twenty_megabytes_is_one_error_and_its_neighbours_are_read(
    tmp_path: Path, name: str, place: int
) -> None:
    texts = ["one", "two"]
    texts.insert(place, "x" * 20_000_000)
    objects = [json.dumps({"prompt": text}) for text in texts]
    lines = {"in.jsonl": objects, "in.csv": ["prompt,n", *(f"{text},1" for text in texts)], "in.txt": texts}
    content = "\n".join(lines[name]) if name in lines else f"[{','.join(objects)}]"
    rows = read(tmp_path, content.encode(), name)
    bad = rows.pop(place)
    assert (bad.code, bad.row, bad.fault.split(" ", 1)[1]) == (
        "line_too_long", None, f"{bad.number} is longer than {MOST_ROW_BYTES} bytes")  # fmt: skip
    assert [row.row["prompt"] for row in rows] == ["one", "two"]


def test_a_row_of_a_table_with_a_cell_too_many_or_a_quote_left_open_is_one_error(tmp_path: Path) -> None:
    content = b'question,answer\na,1\nb,2,3\nc\n"d" e,4\n\xff,5\nf,6\n"g\nh,7\n'
    rows = read(tmp_path, content, "in.csv")
    assert values(rows) == [
        {"question": "a", "answer": "1"}, *["invalid_row"] * 4, {"question": "f", "answer": "6"}, "invalid_row"
    ]  # fmt: skip
    assert rows[1].fault == "row 2 (line 3): it has 3 cells and the header names 2 columns"
    assert "not UTF-8" in rows[4].fault
    assert "quote" in rows[6].fault


def test_a_file_that_breaks_off_gives_its_rows_and_one_error(tmp_path: Path) -> None:
    noise = "".join(chr(33 + (number * 7919 + number // 91) % 90) for number in range(200_000)).replace('"', " ")
    lines = "".join(json.dumps({"n": number, "x": noise[number * 40 :][:40]}) + "\n" for number in range(5000))
    rows = read(tmp_path, gzip.compress(lines.encode())[:-2000], "in.jsonl.gz")
    assert len(rows) > 1000
    assert (rows[-1].code, [row.number for row in rows]) == ("damaged_file", list(range(1, len(rows) + 1)))
    (first, torn) = read(tmp_path, b'[{"a": 1}, {"b"', "in.json")
    assert (first.row, torn.code, torn.number) == ({"a": 1}, "damaged_file", 2)


def test_a_bomb_is_one_error_before_it_has_unfolded(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "in.jsonl.gz", "wb") as file:
        file.write(b'{"prompt": "x"}\n')
        for _ in range(300):
            file.write(b"0" * (1 << 20))
    first, bomb = Rows([tmp_path / "in.jsonl.gz"])
    assert first.row == {"prompt": "x"}
    assert bomb.code == "damaged_file"
    assert "times its size" in bomb.fault


def test_nan_and_times_of_a_table_can_be_written_as_json(tmp_path: Path) -> None:
    table = pyarrow.table({"a": [float("nan"), 1.5], "b": [[float("inf")], None]})
    parquet.write_table(table, tmp_path / "in.parquet")
    assert values(list(Rows([tmp_path / "in.parquet"]))) == [{"a": None, "b": [None]}, {"a": 1.5, "b": None}]


def test_a_row_with_a_value_that_python_cannot_hold_is_one_error(tmp_path: Path) -> None:
    text = pyarrow.Array.from_buffers(
        pyarrow.string(),
        3,
        [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"a\xffc")],
    )
    times = pyarrow.array([1, 2, 10**12], pyarrow.timestamp("s"))
    parquet.write_table(pyarrow.table({"prompt": text, "at": times}), tmp_path / "in.parquet")
    first, second, third = Rows([tmp_path / "in.parquet"])
    assert (first.row["prompt"], second.code, third.code) == ("a", "invalid_row", "invalid_row")
    assert "row 3 cannot be read" in third.fault


def test_rows_that_are_known_are_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 1}\n')
    first, second, third = Rows([tmp_path / "in.jsonl"])
    assert first.digest == third.digest != second.digest
    known = list(Rows([tmp_path / "in.jsonl"], lambda number, digest: (number < 3 and digest == first.digest) or None))
    assert [row.row for row in known] == [None, {"a": 2}, {"a": 1}]


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=6,
)  # fmt: skip
_objects = st.lists(st.dictionaries(st.text(max_size=4), _json, max_size=3), max_size=6)


@fuzzing
@given(_objects, st.sampled_from([None, 1, "\t"]), st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_list_of_objects_comes_back_as_it_was(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | str | None, plain: bool, encoding: str
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=not plain)
    assert values(read(tmp_path, text.encode(encoding), "in.json")) == rows
    lines = "\n".join(json.dumps(row, ensure_ascii=not plain) for row in rows)
    assert values(read(tmp_path, lines.encode(encoding), "in.jsonl")) == rows


_cell = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",;\n\t\0'), max_size=6)


@fuzzing
@given(st.lists(st.tuples(_cell, _cell), max_size=5), st.sampled_from(",;\t|"), st.sampled_from(["more", "more\n(b)"]))
def test_any_table_comes_back_as_it_was(
    tmp_path: Path, cells: list[tuple[str, str]], delimiter: str, name: str
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
        [("prompt", name), *cells]
    )
    rows = read(tmp_path, text.getvalue().encode(), "in.csv")
    assert values(rows) == [{"prompt": one, name: two} for one, two in cells]


@fuzzing
@given(st.binary(max_size=300), st.sampled_from(["in.csv", "in.json", "in.txt", "in", "in.jsonl.gz", "in.parquet"]))
def test_any_bytes_under_any_name_give_rows_or_one_error(tmp_path: Path, content: bytes, name: str) -> None:
    try:
        rows = read(tmp_path, content, name)
    except InputError:
        return
    assert all(bool(row.code) == bool(row.fault) and (row.code or isinstance(row.row, dict)) for row in rows)
