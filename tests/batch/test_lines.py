from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from symmoe.batch.lines import BadLine, GoodLine, LineReader, SeenIds, id_hash
from symmoe.batch.record import Passing
from symmoe.config import EngineConfig, ExpertConfig, Pool, SamplingConfig
from symmoe.errors import InputError
from symmoe.rows.reading import MOST_ROW_BYTES
from symmoe.types import Message, Sampling

POOL = Pool(
    name="lines",
    experts=(ExpertConfig(name="adder", model="org/base"),),
    engine=EngineConfig(kind="echo"),
    sampling=SamplingConfig(max_tokens=99, temperature=0.5, top_p=0.9),
)
GOOD = b'{"id": "good", "prompt": "Why?"}'
HUGE = b'{"id": "huge", "prompt": "' + b"x" * 5_000_000 + b'"}'

fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


TOOL = {"type": "function", "function": {"name": "add"}}


def read(folder: Path, content: bytes) -> list[GoodLine | BadLine]:
    path = folder / "in.jsonl"
    path.write_bytes(content)
    return list(LineReader(POOL).read(path))


def good(folder: Path, row: dict[str, Any]) -> GoodLine:
    (line,) = read(folder, json.dumps(row).encode())
    assert isinstance(line, GoodLine), line
    return line


def bad(folder: Path, content: bytes) -> BadLine:
    (line,) = read(folder, content)
    assert isinstance(line, BadLine), line
    return line


def openai(**body: Any) -> dict[str, Any]:
    filled = {"model": "symmoe/auto", "messages": [{"role": "user", "content": "Why?"}]} | body
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": filled}


def plain(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "prompt": "Why?"} | fields


def test_a_plain_line_is_one_user_turn_with_the_pools_sampling(tmp_path: Path) -> None:
    query = good(tmp_path, {"id": "a", "prompt": "Why?"}).queries[0]
    assert (query.id, query.messages) == ("a", (Message("user", "Why?"),))
    assert query.sampling == Sampling(99, 0.5, 0.9)


def test_options_beside_a_plain_prompt_replace_the_pools(tmp_path: Path) -> None:
    query = good(tmp_path, plain(max_tokens=5, temperature=0, top_p=1.0, seed=3, stop="\n")).queries[0]
    assert query.sampling == Sampling(5, 0.0, 1.0, 3, ("\n",))


def test_a_whole_number_is_an_id(tmp_path: Path) -> None:
    assert good(tmp_path, plain(id=7)).queries[0].id == "7"


def test_an_openai_line_keeps_every_turn_and_its_options(tmp_path: Path) -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}], "name": "Ann"},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": "And then?"},
    ]
    row = openai(
        messages=turns, model="symmoe/auto", max_completion_tokens=7, stop=["a", "b"], n=1, stream=False, user="u"
    )
    query = good(tmp_path, row).queries[0]
    assert query.messages == (
        Message("system", "Be brief."),
        Message("user", "Why?"),
        Message("assistant", "Because."),
        Message("user", "And then?"),
    )
    assert query.sampling == Sampling(7, 0.5, 0.9, None, ("a", "b"))


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        pytest.param(b"{", "invalid_json_line", "not valid JSON", id="cut short"),
        pytest.param(b"hello", "invalid_json_line", "not valid JSON", id="words"),
        pytest.param(b"\x00", "invalid_json_line", "not valid JSON", id="a zero byte"),
        pytest.param(b'{"id": "a", "prompt": "\xff"}', "invalid_json_line", "unicode", id="not UTF-8"),
        pytest.param("\ufeffhello".encode("utf-16"), "invalid_json_line", "not valid JSON", id="UTF-16"),
        pytest.param(b"[1]", "invalid_json_line", "not a JSON object", id="a list"),
        pytest.param(b"null", "invalid_json_line", "not a JSON object", id="null"),
        pytest.param(b'"text"', "invalid_json_line", "not a JSON object", id="a string"),
        pytest.param(b"[" * 500_000, "invalid_json_line", "recursion", id="500,000 brackets"),
        pytest.param(b'{"a":' * 9000 + b"1" + b"}" * 9000, "invalid_json_line", "recursion", id="9,000 objects"),
        pytest.param(b'{"id": 1' + b"0" * 5000 + b"}", "invalid_json_line", "number out of range", id="5,000 digits"),
        pytest.param(b'{"id": "a", "prompt": "\\ud83d"}', "invalid_json_line", "hex escape", id="half a pair"),
        pytest.param(b'{"id": "a", "prompt": "x", "seed": NaN}', "invalid_json_line", "not valid JSON", id="NaN"),
    ],
)
def test_what_is_no_question_is_an_error_that_names_its_line(tmp_path: Path, line: bytes, code: str, says: str) -> None:
    _, found, _ = read(tmp_path, b"\n".join([GOOD, line, b'{"id": "after", "prompt": "x"}']))
    assert isinstance(found, BadLine)
    assert (found.number, found.code, found.status) == (2, code, None)
    assert found.message.startswith("line 2")
    assert says in found.message


@pytest.mark.parametrize(
    ("row", "code", "says"),
    [
        pytest.param({"custom_id": "a"}, "invalid_method", "method", id="no method"),
        pytest.param(openai() | {"method": "GET"}, "invalid_method", "method", id="method GET"),
        pytest.param(openai() | {"url": "/v1/embeddings"}, "invalid_url", "url", id="another url"),
        pytest.param(openai() | {"body": []}, "invalid_body", "body", id="a list for a body"),
        pytest.param(openai() | {"colour": "red"}, "unknown_field", "colour", id="unknown field"),
    ],
)
def test_a_line_that_is_no_request_keeps_its_id_and_says_what_is_wrong(
    tmp_path: Path, row: dict[str, Any], code: str, says: str
) -> None:
    line = bad(tmp_path, json.dumps(row).encode())
    assert (line.number, line.id, line.code, line.status) == (1, "a", code, None)
    assert line.message.startswith("line 1: ")
    assert says in line.message


@pytest.mark.parametrize(
    ("row", "code", "param"),
    [
        pytest.param(plain(prompt=""), "invalid_value", None, id="empty prompt"),
        pytest.param(plain(prompt=None), "invalid_value", None, id="null prompt"),
        pytest.param(plain(prompt=["Why?"]), "invalid_prompt", None, id="list prompt"),
        pytest.param(plain(prompt=" \t\n\u3000"), "invalid_value", None, id="blank prompt"),
        pytest.param(plain(functions=[{}]), "unsupported_parameter", "functions", id="functions"),
        pytest.param(plain(max_tokens="5"), "invalid_value", "max_tokens", id="max_tokens a string"),
        pytest.param(plain(max_tokens=0), "invalid_value", "max_tokens", id="max_tokens 0"),
        pytest.param(plain(max_tokens=1.5), "invalid_value", "max_tokens", id="max_tokens 1.5"),
        pytest.param(plain(max_tokens=True), "invalid_value", "max_tokens", id="max_tokens true"),
        pytest.param(plain(temperature=-0.1), "invalid_value", "temperature", id="temperature below 0"),
        pytest.param(plain(top_p=0), "invalid_value", "top_p", id="top_p 0"),
        pytest.param(plain(seed=2**63), "invalid_value", "seed", id="seed of 64 bits"),
        pytest.param(plain(stop=[1]), "invalid_value", "stop", id="stop of numbers"),
        pytest.param(plain(stop=["x"] * 17), "invalid_value", "stop", id="17 stops"),
        pytest.param(openai(n=17), "invalid_value", "n", id="n 17"),
        pytest.param(openai(stream=True), "invalid_value", "stream", id="stream"),
        pytest.param(openai(tools=[{}]), "missing_parameter", "tools.0.type", id="a tool of no type"),
        pytest.param(openai(tools=[TOOL]), "unsupported_parameter", "tools", id="tools that no expert takes"),
        pytest.param(openai(messages=[]), "invalid_value", "messages", id="no messages"),
        pytest.param(openai(messages="Why?"), "invalid_value", "messages", id="messages a string"),
        pytest.param(openai(model="nobody"), "model_not_found", "model", id="a model that there is not"),
        pytest.param(openai(response_format={"type": "x"}), "invalid_value", "response_format", id="odd format"),
    ],
)
def test_a_request_that_cannot_be_asked_is_told_as_online(
    tmp_path: Path, row: dict[str, Any], code: str, param: str | None
) -> None:
    line = bad(tmp_path, json.dumps(row).encode())
    assert (line.number, line.id, line.code, line.param) == (1, "a", code, param)
    assert line.status == (404 if code == "model_not_found" else 400)


def test_a_field_without_effect_is_named_and_costs_nothing(tmp_path: Path) -> None:
    line = good(tmp_path, plain(colour="red", store=True, max_tokens=5))
    assert line.ignored == ("colour", "store")
    assert line.queries[0].sampling.max_tokens == 5


def test_a_line_is_answered_by_the_model_and_under_the_options_that_it_names(tmp_path: Path) -> None:
    assert good(tmp_path, openai(model="adder")).policy.expert == "adder"
    assert good(tmp_path, openai(model="symmoe/fast")).policy.k == 1
    assert good(tmp_path, plain(model="symmoe/best")).policy.full
    policy = good(tmp_path, plain(symmoe={"k": 2, "budget": 50.0, "aggregate": "never"})).policy
    assert (policy.k, policy.budget, policy.aggregate) == (2, 50.0, "never")


def test_each_choice_is_a_query_with_a_seed_of_its_own(tmp_path: Path) -> None:
    line = good(tmp_path, openai(n=3, seed=5, temperature=1.0))
    assert [query.sampling.seed for query in line.queries] == [5, 6, 7]
    assert len({query.id for query in line.queries}) == 3


@pytest.mark.parametrize("nothing", [{}, {"id": None}, {"id": ""}])
def test_a_row_without_an_id_has_its_number(tmp_path: Path, nothing: dict[str, Any]) -> None:
    _, line = read(tmp_path, GOOD + b"\n" + json.dumps({**nothing, "prompt": "x"}).encode())
    assert line.id == "2"


@pytest.mark.parametrize("wrong", ["x" * 513, True, 1.5, ["a"], {"a": 1}, 2**63, "\ud800"])
def test_what_is_no_id_is_an_error_without_an_id(tmp_path: Path, wrong: object) -> None:
    line = bad(tmp_path, json.dumps(plain(id=wrong)).encode())
    assert (line.id, line.code) in [(None, "invalid_id"), (None, "invalid_json_line")]


@pytest.mark.parametrize("ident", ["a\x1f1", "a\x1e1"])
def test_an_id_that_might_be_another_line_s_choice_or_turn_is_an_error(tmp_path: Path, ident: str) -> None:
    assert bad(tmp_path, json.dumps(plain(id=ident)).encode()).code == "invalid_id"
    assert bad(tmp_path, json.dumps({**openai(), "custom_id": ident}).encode()).code == "invalid_custom_id"


def test_the_error_of_a_line_with_a_number_as_id_keeps_it(tmp_path: Path) -> None:
    assert bad(tmp_path, b'{"id": 7, "prompt": ""}').id == "7"


def test_a_field_named_by_half_a_surrogate_pair_gives_a_message_that_can_be_written(tmp_path: Path) -> None:
    assert bad(tmp_path, rb'{"id": "a", "prompt": "x", "\ud800": 1}').message.encode()


def test_the_second_use_of_an_id_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    first, second = read(tmp_path, b'{"id": "1", "prompt": "x"}\n{"id": 1, "prompt": "y"}\n')
    assert isinstance(first, GoodLine)
    assert second == BadLine(2, None, "duplicate_custom_id", "line 2: the id '1' was already used on line 1")


def test_an_id_stands_for_the_line_that_has_it_first(tmp_path: Path) -> None:
    first, second, third = read(
        tmp_path, b'{"id": "a", "prompt": ""}\n{"id": "a", "prompt": "y"}\n{"id": "a", "prompt": ""}\n'
    )
    found = [(line.code, line.id) for line in (first, second, third) if isinstance(line, BadLine)]
    assert found == [("invalid_value", "a"), ("duplicate_custom_id", None), ("invalid_value", None)]


def test_a_hundred_thousand_ids_are_told_apart_in_few_bytes_each() -> None:
    seen, count = SeenIds(), 100_000
    assert [seen.first_use(f"id-{number}", number) for number in range(count)] == list(range(count))
    assert [seen.first_use(f"id-{number}", count) for number in range(0, count, 777)] == list(range(0, count, 777))
    assert seen.size <= 30 * count


def test_a_table_of_ids_grows_without_much_memory_beside_it() -> None:
    seen, count = SeenIds(), 20_000
    tracemalloc.start()
    try:
        for number in range(count):
            seen.note(id_hash(f"id-{number}"), number)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= 40 * count


@given(st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=3000), st.integers(0, 3000))
def test_ids_that_are_taken_at_once_are_known_like_those_that_came_one_by_one(hashes: list[int], alone: int) -> None:
    seen, numbers = SeenIds(), range(1, len(hashes) + 1)
    for number, hashed in zip(numbers[:alone], hashes[:alone], strict=True):
        seen.note(hashed, number)
    seen.fill([0, *hashes[alone:]], [0, *numbers[alone:]])
    assert [seen.note(hashed, 2**32 - 1) for hashed in hashes] == list(numbers)
    assert seen.note(0x5EED, 7) == (numbers[hashes.index(0x5EED)] if 0x5EED in hashes else 7)


def test_lines_that_stand_in_their_places_are_passed_over_and_their_ids_kept(tmp_path: Path) -> None:
    rows = [{"id": f"q{number}", "prompt": "?"} for number in range(1, 6)]
    lines = [json.dumps(row).encode() for row in rows]
    (tmp_path / "in.jsonl").write_bytes(b"\n\n".join([*lines, lines[0], b'{"id": "q9", "prompt": "!"}']))
    standing = [(xxh3_128_digest(line), id_hash(row["id"])) for line, row in zip(lines, rows, strict=True)]
    known = Passing(standing)
    found = LineReader(POOL).read(tmp_path / "in.jsonl", known=known)
    again, new = list(found)
    assert (found.passed, found.differs) == (5, False)
    assert isinstance(again, BadLine)
    assert again.message == "line 11: the id 'q1' was already used on line 1"
    assert (new.number, new.id) == (13, "q9")


def test_the_first_line_that_is_another_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(GOOD + b"\n" + GOOD)
    found = LineReader(POOL).read(tmp_path / "in.jsonl", known=Passing([(xxh3_128_digest(GOOD), 0), (bytes(16), 0)]))
    assert [line.number for line in found if isinstance(line, GoodLine | BadLine)] == [2]
    assert (found.passed, found.differs) == (1, True)


def test_lines_are_read_when_they_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "%s"}\n' % (b"x" * 240) * 10_000)
    lines = LineReader(POOL).read(tmp_path / "in.jsonl")
    assert next(lines).number == 1
    assert lines.meter.done < (lines.meter.total or 0) / 2
    assert sum(1 for _ in lines) == 9_999
    assert lines.meter.done == lines.meter.total


def test_a_line_carries_the_row_as_it_came_and_its_place(tmp_path: Path) -> None:
    first, broken, again = read(tmp_path, GOOD + b"\n\n{\n" + GOOD)
    source = str(tmp_path / "in.jsonl")
    assert (first.origin.source, first.origin.number, first.origin.row) == (source, 1, json.loads(GOOD))
    assert (broken.origin.number, broken.origin.row) == (3, "{")
    assert again.origin.number == 4
    assert len(first.origin.digest) == 16
    assert first.origin.digest == again.origin.digest != broken.origin.digest


def test_of_bad_lines_with_one_id_the_first_keeps_it(tmp_path: Path) -> None:
    lines = read(tmp_path, b'{"id": "a", "prompt": ""}\n{"id": "a", "prompt": ""}\n')
    assert [line.id for line in lines if isinstance(line, BadLine)] == ["a", None]


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_of_five_megabytes_is_an_error_and_its_neighbours_are_read(
    tmp_path: Path, place: int, end: bytes
) -> None:
    rows = [b'{"id": "a", "prompt": "x"}', b'{"id": "b", "prompt": "y"}']
    rows.insert(place, HUGE)
    lines = read(tmp_path, b"\n".join(rows) + end)
    assert lines.pop(place) == BadLine(
        place + 1, None, "line_too_long", f"line {place + 1} is longer than {MOST_ROW_BYTES} bytes"
    )
    assert [line.id for line in lines if isinstance(line, GoodLine)] == ["a", "b"]


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_the_longest_line_fits_and_one_byte_more_does_not(
    tmp_path: Path, spare: int, fits: bool, bom: bytes, end: bytes
) -> None:
    length = MOST_ROW_BYTES - spare - len(GOOD) + len("Why?")
    line, after = read(tmp_path, bom + GOOD.replace(b"Why?", b"x" * length) + b'\n{"id": "b", "prompt": "y"}' + end)
    assert isinstance(line, GoodLine) == fits
    assert isinstance(after, GoodLine)
    assert after.number == 2


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    lines = read(tmp_path, b"\n \t\n" + GOOD + b"\n\r\n\n" + b"{" + b"\n\n")
    assert [line.number for line in lines] == [3, 6]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (line,) = read(tmp_path, b"\xef\xbb\xbf" + GOOD)
    assert isinstance(line, GoodLine)
    assert read(tmp_path, b"\xef\xbb\xbf") == []
    assert read(tmp_path, b"\xef\xbb\xbf\r\n" + GOOD)[0].number == 2


def test_a_byte_order_mark_on_a_later_line_is_an_error(tmp_path: Path) -> None:
    lines = read(tmp_path, GOOD + b"\n\xef\xbb\xbf" + GOOD)
    assert [type(line) for line in lines] == [GoodLine, BadLine]


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    lines = read(tmp_path, GOOD + b'\r\n{"id": "b", "prompt": "x\\r\\n"}\r\n')
    assert [line.queries[0].text for line in lines if isinstance(line, GoodLine)] == ["Why?", "x\r\n"]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == []


def test_a_file_that_cannot_be_opened_is_a_job_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        LineReader(POOL).read(tmp_path / "none.jsonl")


def assert_one_result_each(folder: Path, content: bytes) -> None:
    """Each line that is not blank is a line; what is no file of questions at all says so."""
    lines: list[GoodLine | BadLine] = []
    with suppress(InputError):
        lines = read(folder, content)
    if not lines:
        return
    rows = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert [line.number for line in lines] == [number for number, row in enumerate(rows, 1) if row.strip()]
    named = [line.id for line in lines]
    known = [name for name in named if name is not None]
    assert len(known) == len(set(known))
    for line in lines:
        said = line.queries[0].text if isinstance(line, GoodLine) else line.message
        assert said.encode()


@fuzzing
@given(st.binary(max_size=400), st.sampled_from([b"", GOOD + b"\n"]))
def test_any_bytes_give_one_result_for_each_line_that_is_not_blank(
    tmp_path: Path, content: bytes, before: bytes
) -> None:
    assert_one_result_each(tmp_path, before + content)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=())),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=8,
)
_fields = st.sampled_from(
    ["id", "prompt", "custom_id", "method", "url", "body", "messages", "max_tokens", "stop", "seed"]
)
_near_row = st.dictionaries(_fields, _json | st.sampled_from(["a", "b", "POST", "/v1/chat/completions"]), max_size=5)
_row = st.fixed_dictionaries({"id": st.sampled_from(["a", "b", 1, "1"]), "prompt": st.text(max_size=5)})
_written = (_near_row | _row).map(lambda row: json.dumps(row).encode())


@fuzzing
@given(st.lists(_written | st.binary(max_size=20), max_size=8), st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_rows_that_nearly_fit_give_one_result_each_and_no_id_twice(
    tmp_path: Path, rows: list[bytes], bom: bytes
) -> None:
    assert_one_result_each(tmp_path, bom + b"\n".join([GOOD, *rows]))
