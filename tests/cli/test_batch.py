from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow.fs import S3FileSystem

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.errors import EngineError

from ..batch.conftest import read_jsonl
from ..conftest import echo_pool
from .conftest import Symmoe

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


def test_a_run_that_answers_every_line_ends_with_0(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    said = symmoe_command("batch", "run", source, "-o", output, "--pool", pool, "--json")
    assert said.code == 0
    assert said.json | {"seconds": {}, "loads": [[expert, lane] for expert, lane, _ in said.json["loads"]]} == {
        "output": str(output),
        "trace": str(tmp_path / "out.trace.jsonl"),
        "answered": 2,
        "failed": 0,
        "score": None,
        "errors": None,
        "causes": {},
        "experts_lost": {},
        "lines_kept": 0,
        "window": "windows of 1024 lines: experts cost nothing to load",
        "candidates_resumed": 0,
        "seconds": {},
        "loads": [["adder", "rebuild"], ["speaker", "merged"]],
        "ignored": {},
    }
    assert [row["symmoe_id"] for row in read_jsonl(output)] == ["a", "b"]


@pytest.mark.parametrize("ends", [0, 1])
def test_a_run_closes_its_engine_however_it_ends(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: int
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Assembly, "close", lambda assembly: closed.append(assembly.pool.name))
    if ends:
        monkeypatch.setattr(Assembly, "parts", lambda assembly: broken())
    assert symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--pool", pool).code == ends
    assert closed == [read_pool(str(pool)).name]


def broken() -> None:
    raise EngineError("it does not start")


@pytest.mark.parametrize("words", ["batch run {file} -o {folder}/out.jsonl", "batch check {file}"])
def test_a_file_that_is_not_there_is_told_before_a_model_is_fetched(
    symmoe_command: Symmoe, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr("symmoe.build.fetch_weights", lambda *_: pytest.fail("a model was fetched"))
    file = tmp_path / "none.jsonl"
    said = symmoe_command(*words.format(file=file, folder=tmp_path).split(), "--pool", pool)
    assert (said.code, said.errors) == (2, [f"error: {file}: cannot be read (No such file or directory)"])


def test_a_run_that_cannot_answer_some_lines_ends_with_3_each_time(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path
) -> None:
    source.write_bytes(source.read_bytes() + b"{\n")
    words = ("batch", "run", source, "-o", tmp_path / "out.jsonl", "--pool", pool)
    said = symmoe_command(*words)
    assert said.code == 3
    assert said.out.startswith("2 answered, 1 failed, in ")
    again = symmoe_command(*words, "--resume")
    assert again.code == 3
    assert again.out.startswith("already finished: 2 answered, 1 failed, in ")


def test_an_empty_file_ends_with_0(symmoe_command: Symmoe, pool: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    said = symmoe_command("batch", "run", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--pool", pool, "--json")
    assert (said.code, said.json["answered"], said.json["failed"]) == (0, 0, 0)


def test_resuming_with_another_k_ends_with_2_and_says_why(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path
) -> None:
    words = ("batch", "run", source, "-o", tmp_path / "out.jsonl", "--pool", pool)
    assert symmoe_command(*words).code == 0
    said = symmoe_command(*words, "--resume", "--k", 1)
    assert said.code == 2
    (error,) = said.errors
    assert "cannot resume" in error
    assert " hint: " in said.err


@pytest.mark.parametrize("brackets", ["[bold]", "[/]"])
def test_a_path_with_brackets_is_shown_as_it_is(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path, brackets: str
) -> None:
    output = tmp_path / f"out{brackets}.jsonl"
    said = symmoe_command("batch", "run", source, "-o", output, "--pool", pool)
    assert said.code == 0
    assert f"in {output};" in said.out.replace("\n", "")


def test_an_output_over_its_input_ends_with_2(symmoe_command: Symmoe, source: Path, pool: Path) -> None:
    before = source.read_bytes()
    said = symmoe_command("batch", "run", source, "-o", source, "--pool", pool)
    assert (said.code, len(said.errors)) == (2, 1)
    assert source.read_bytes() == before


def test_a_store_that_cannot_be_used_ends_with_1(
    symmoe_command: Symmoe, source: Path, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://localhost")
    said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--pool", pool)
    assert (said.code, len(said.errors)) == (1, 1)


@pytest.mark.slow
def test_a_run_tags_with_the_embedder_that_is_installed(source: Path, pool: Path, tmp_path: Path, state: Path) -> None:
    words = ["batch", "run", source, "-o", tmp_path / "out.jsonl", "--pool", pool, "--json"]
    source.write_text('{"id": "a", "prompt": "What is 2 plus 3?"}\nno json\n', encoding="utf-8")
    command = [str(Path(sys.executable).with_name("symmoe")), *map(str, words)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert process.returncode == 3, process.stderr
    assert [load[:2] for load in json.loads(process.stdout)["loads"]] == [["adder", "rebuild"]]
    (trace,) = read_jsonl(tmp_path / "out.trace.jsonl")
    assert trace["recruited"] == ["adder"]
    assert [row["symmoe_id"] for row in read_jsonl(tmp_path / "out.jsonl")] == ["a", None]


def test_with_explain_every_trace_says_how_the_experts_stood(symmoe_command: Symmoe, pool: Path, source: Path) -> None:
    for words, explained in (((), False), (("--explain",), True)):
        output = source.with_name(f"out{explained}.jsonl")
        assert symmoe_command("batch", "run", source, "-o", output, "--pool", pool, *words).code == 0
        traces = [json.loads(line) for line in output.with_name(f"{output.stem}.trace.jsonl").read_text().splitlines()]
        assert [trace["explanation"] is not None for trace in traces] == [explained] * 2
    assert {standing["expert"] for standing in traces[0]["explanation"]["standings"]} == {"adder", "speaker", "sorter"}


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """A pool of three, of which the sorter alone sees."""
    return echo_pool(tmp_path, more={"sorter": {"images": True}})


def test_an_image_goes_to_an_expert_that_sees_whatever_the_question_calls_for(
    symmoe_command: Symmoe, seeing: Path, tmp_path: Path
) -> None:
    files = [tmp_path / "red.png", tmp_path / "blue.jpg"]
    for file in files:
        Image.new("RGB", (4, 4), file.stem).save(file)
    shown = [word for file in files for word in ("--image", file)]
    trace = symmoe_command("ask", "sums", "--pool", seeing, *shown, "--json").json["trace"]
    assert trace["recruited"] == ["sorter"]
    named = symmoe_command("ask", "sums", "--pool", seeing, "--model", "adder", *shown)
    assert (named.code, named.errors) == (
        2,
        ["error: expert 'adder' cannot see images; the pool file says which can (`images: true`)"],
    )


def test_a_pool_whose_experts_are_all_remote_says_where_to_ask_them(symmoe_command: Symmoe, tmp_path: Path) -> None:
    far = {"name": "far", "model": "org/far", "remote": {"url": "https://far.example/v1"}}
    (tmp_path / "pool.yaml").write_text(json.dumps({"name": "far", "engine": {"kind": "vllm"}, "experts": [far]}))
    said = symmoe_command("ask", "What is 2 + 3?", "--pool", tmp_path / "pool.yaml")
    assert said.code == 2
    assert "every expert is remote" in said.err
    assert "symmoe serve" in said.err


def test_a_question_in_another_encoding_is_one_error(symmoe_command: Symmoe, seeing: Path) -> None:
    said = symmoe_command("ask", b"caf\xe9?".decode("utf-8", "surrogateescape"), "--pool", seeing)
    assert (said.code, len(said.errors), "not UTF-8" in said.err) == (2, 1, True)


@pytest.mark.parametrize("content", [b"no image", b"", None], ids=["text", "empty", "missing"])
def test_what_is_no_image_is_told_by_its_name(
    symmoe_command: Symmoe, seeing: Path, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "picture.png"
    if content is not None:
        file.write_bytes(content)
    said = symmoe_command("ask", "sums", "--pool", seeing, "--image", file)
    assert said.code == 2
    (error,) = said.errors
    assert str(file) in error


PUBLIC = Path(__file__).parent.parent / "batch" / "public"
FILES = {
    "gsm8k.jsonl": ("question", "1", "A baker makes 12 trays of 8 rolls. He sells 70 rolls"),
    "mt_bench.jsonl": ("turns", "1", "Write two sentences about a harbour at dawn."),
    "alpaca.json": ("instruction", "1", "Name three ways to save water at home."),
    "sharegpt.json": ("conversations", "aB3xYz0_0", "And keep my changes?"),
    "messages.jsonl": ("messages", "1", "What is the symbol of tin?"),
    "prompts.jsonl": ("prompt", "p1", "What is the plural of mouse?"),
    "truthfulqa.csv": ("Question", "1", "Do goldfish forget everything after three seconds?"),
    "mmlu_pro.parquet": ("question + its options", "1", "Where the price is set low relative to the competition"),
    "symbolic_moe.json": ("question", "1", "Find the number of positive integers with three not"),
    "arc.jsonl": (
        "question + its options",
        "Mercury_900001",
        "Which of these is a renewable source of energy?\nA. coal\nB.",
    ),
    "commonsense_qa.jsonl": (
        "question + its options",
        "f00d1",
        "An umbrella is used against what?\nA. rain\nB. stew\nC.",
    ),
    "math.jsonl": ("problem", "1", "What is the remainder when $7^3$ is divided by $5$?"),
    "humaneval.jsonl.gz": ("prompt", "1", "def double(x: int) -> int:"),
    "ifeval.jsonl": ("prompt", "1", "Describe a violin in exactly two sentences."),
    "dolly.jsonl": ("instruction + context", "1", "Who built the tower?\n\nThe tower was built in 1903 by Ada Lind."),
    "questions.txt": ("prompt", "1", "Calculate 4 + 9."),
}


@pytest.fixture(autouse=True)
def echoing(monkeypatch: pytest.MonkeyPatch, pool: Path) -> None:
    monkeypatch.setenv("SYMMOE_POOL", str(pool))


def own_answer(row: dict[str, Any]) -> Any:
    return row["symmoe_answer" if "symmoe_answer" in row else "answer"]


@pytest.mark.parametrize("name", FILES)
def test_a_public_file_is_answered_as_it_is_and_keeps_its_columns(
    symmoe_command: Symmoe, tmp_path: Path, name: str
) -> None:
    shape, ident, begin = FILES[name]
    said = symmoe_command("batch", "run", PUBLIC / name, "-o", tmp_path / "out.jsonl")
    assert (said.code, said.errors) == (0, [])
    first, *more = read_jsonl(tmp_path / "out.jsonl")
    assert first["symmoe_id"] == ident
    assert shape in said.err
    assert begin.splitlines()[0] in said.err
    answer = own_answer(first)
    text = answer if isinstance(answer, str) else answer[0]
    assert text.split(": ", 1)[1].startswith(begin)
    assert all(own_answer(row) and row["symmoe_error"] is None for row in more)


def test_requests_for_responses_are_answered_as_responses(symmoe_command: Symmoe, tmp_path: Path) -> None:
    assert symmoe_command("batch", "run", PUBLIC / "responses.jsonl", "-o", tmp_path / "out.jsonl").code == 0
    first, second = read_jsonl(tmp_path / "out.jsonl")
    assert (first["custom_id"], first["response"]["status_code"]) == ("r-1", 200)
    body = first["response"]["body"]
    assert (body["object"], body["instructions"]) == ("response", "Be brief.")
    assert body["output"][0]["content"][0]["text"].endswith(": What is the capital of Peru?")
    assert second["response"]["body"]["output"][0]["content"][0]["text"].endswith(": Count to three.")


def test_turns_are_asked_one_after_another_of_the_expert_that_answered(symmoe_command: Symmoe, tmp_path: Path) -> None:
    symmoe_command("batch", "run", PUBLIC / "mt_bench.jsonl", "-o", tmp_path / "out.jsonl")
    first, second = read_jsonl(tmp_path / "out.jsonl")
    for row in (first, second):
        assert [each.split(": ", 1)[1] for each in row["answer"]] == row["turns"]
        assert len({each.split(": ")[0] for each in row["answer"]}) == 1
    traces = read_jsonl(tmp_path / "out.trace.jsonl")
    assert len(traces) == 4


def test_lines_come_through_a_pipe_and_from_several_files(
    symmoe_command: Symmoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (PUBLIC / "gsm8k.jsonl").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    words = ("-", PUBLIC / "alpaca.json", PUBLIC / "truth*.csv", "-o", tmp_path / "out.jsonl")
    assert symmoe_command("batch", "run", *words).code == 0
    answered = read_jsonl(tmp_path / "out.jsonl")
    assert [row["symmoe_id"] for row in answered] == [str(number) for number in range(1, 9)]
    assert "instruction" in answered[3]


@pytest.mark.slow
def test_questions_in_a_bucket_are_read_where_they_lie(
    s3: S3FileSystem, symmoe_command: Symmoe, tmp_path: Path
) -> None:
    """By their names, by a pattern and by their prefix, with nothing installed besides, and resumed."""
    s3.create_dir("asked")
    for name in ("1.jsonl", "2.jsonl.gz", "README.md"):
        content = (PUBLIC / "gsm8k.jsonl").read_bytes()
        with s3.open_output_stream(f"asked/day/{name}", compression=None) as stream:
            stream.write(gzip.compress(content) if name.endswith("gz") else content)
    output = tmp_path / "out.jsonl"
    for source in ("s3://asked/day/", "s3://asked/day/*.jsonl*", "s3://asked/day"):
        said = symmoe_command("batch", "run", source, "-o", output, "--resume", "--json")
        assert (said.code, said.json["failed"]) == (0, 0)
        assert len(read_jsonl(output)) == 2 * len((PUBLIC / "gsm8k.jsonl").read_text().splitlines())
    verified = symmoe_command("batch", "verify", "s3://asked/day/1.jsonl", "s3://asked/day/2.jsonl.gz", output)
    assert verified.code == 0
    lost = symmoe_command("batch", "run", "s3://asked/day/none.jsonl", "-o", output)
    assert (lost.code, len(lost.errors)) == (2, 1)
    assert "s3://asked/day/none.jsonl" in lost.errors[0]


def test_every_way_to_write_holds_the_same_rows(symmoe_command: Symmoe, tmp_path: Path) -> None:
    from pyarrow import parquet

    for name in ("out.jsonl", "out.csv", "out.parquet"):
        assert symmoe_command("batch", "run", PUBLIC / "arc.jsonl", "-o", tmp_path / name).code == 0
    written = read_jsonl(tmp_path / "out.jsonl")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    columns = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for one, two, three in zip(written, cells, columns, strict=True):
        assert one["answer"] == two["answer"] == three["answer"]
        assert (
            one["symmoe_completion_tokens"] == int(two["symmoe_completion_tokens"]) == three["symmoe_completion_tokens"]
        )
        assert one["choices"] == json.loads(two["choices"]) == json.loads(three["choices"])
        assert two["symmoe_error"] == ""
        assert three["symmoe_error"] is None


@pytest.mark.parametrize("odd", ["\0", "\x1a", "\r", "\u2028"])
@pytest.mark.parametrize("names", ["in.jsonl out.csv", "in.csv out.csv", "in.csv out.jsonl"])
def test_a_control_character_in_a_cell_is_written_read_back_and_kept(
    symmoe_command: Symmoe, tmp_path: Path, names: str, odd: str
) -> None:
    source, output = (tmp_path / name for name in names.split())
    row = {"question": f"adding {odd} 1", "a\nnote": odd}
    if source.suffix == ".jsonl":
        source.write_text(json.dumps(row), encoding="utf-8")
    else:
        with source.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([row.keys(), row.values()])
    assert symmoe_command("batch", "run", source, "-o", output).code == 0
    assert symmoe_command("batch", "verify", source, output).code == 0
    again = symmoe_command("batch", "run", source, "-o", output, "--resume", "--json")
    assert (again.code, again.json["lines_kept"]) == (0, 1)


@pytest.mark.parametrize(("detail", "size"), [("full", 2000), ("brief", 500), ("none", 0)])
def test_a_trace_is_as_long_as_is_asked(symmoe_command: Symmoe, tmp_path: Path, detail: str, size: int) -> None:
    words = ("batch", "run", PUBLIC / "prompts.jsonl", "-o", tmp_path / "out.jsonl", "--trace", detail)
    said = symmoe_command(*words)
    assert (said.code, "evidence" in said.out) == (0, detail != "none")
    trace = tmp_path / "out.trace.jsonl"
    assert trace.exists() == (detail != "none")
    assert not trace.exists() or len(trace.read_bytes().splitlines()[0]) < size


def test_a_template_a_column_and_a_system_message_say_what_is_asked(symmoe_command: Symmoe, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("key,title,body\n7,Sums,one and one\n", encoding="utf-8")
    for words, asked in (
        (("--prompt", "{{ title }}: {{ body | upper }}?"), "Sums: ONE AND ONE?"),
        (("--prompt-column", "body", "--system", "Be kind."), "one and one"),
    ):
        said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--id-column", "key", *words)
        assert said.code == 0, said.err
        (row,) = read_jsonl(tmp_path / "out.jsonl")
        assert (row["symmoe_id"], row["answer"].split(": ", 1)[1]) == ("7", asked)


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        ("title,body\na,b\n", (), ("no column that is known", "'title', 'body'", "--prompt-column")),
        ('{"question": "a", "prompt": "b"}\n', (), ("'prompt' or 'question'", "--prompt-column")),
        ('{"question": "a", "context": {"title": "b"}}\n', (), ("may need 'context'", "--prompt ")),
        ("title,body\na,b\n", ("--prompt", "{{ titel }}"), ("'titel' is undefined", "'title', 'body'")),
        (
            "title,body\na,b\n",
            ("--prompt-column", "text"),
            ("no column 'text'", "'title', 'body'", "name a column that is there"),
        ),
        ("question,answer\na,b\n", ("--id-column", "key"), ("no column 'key'", "'question', 'answer'")),
        ("title,body\na,b\n", ("--prompt", "{{ title"), ("no Jinja template",)),
    ],
)
def test_what_cannot_be_told_is_one_error_that_names_the_columns(
    symmoe_command: Symmoe, tmp_path: Path, content: str, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    source = tmp_path / ("in.csv" if "," in content.split("\n")[0] and "{" not in content[0] else "in.jsonl")
    source.write_text(content, encoding="utf-8")
    said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", *words)
    assert (said.code, len(said.errors)) == (2, 1)
    assert all(each in said.err for each in says), said.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_template_cannot_reach_out_of_its_sandbox(symmoe_command: Symmoe, tmp_path: Path) -> None:
    words = ("--prompt", "{{ question.__class__.__mro__ }}")
    said = symmoe_command("batch", "run", PUBLIC / "gsm8k.jsonl", "-o", tmp_path / "out.jsonl", *words)
    assert (said.code, len(said.errors)) == (2, 1)
    assert "unsafe" in said.err


def test_rows_can_be_limited_and_drawn(symmoe_command: Symmoe, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("".join(f"Question {number}?\n" for number in range(400)), encoding="utf-8")
    for words, least, most in ((("--limit", 7), 7, 7), (("--sample", 0.25), 70, 130)):
        said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", *words, "--json")
        assert least <= said.json["answered"] <= most
        assert symmoe_command("batch", "verify", source, tmp_path / "out.jsonl", *words).code == 0


def test_a_job_stops_at_its_time_and_says_how_to_go_on(symmoe_command: Symmoe, tmp_path: Path) -> None:
    import symmoe.cli.batch as command

    source = tmp_path / "long.txt"
    source.write_text("".join(f"What is {number} plus 3?\n" for number in range(20_000)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_seconds_until", lambda clock: 0.0)
        said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--until", "06:00", "--json")
    assert (said.code, said.json["state"], said.json["reason"]) == (4, "stopped", "it is 06:00")
    assert "it is 06:00; nothing is lost. Continue with: symmoe batch run" in said.err
    assert symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--until", "6 am").code == 2


def test_the_time_until_an_hour_counts_the_night_on_which_clocks_change(monkeypatch: pytest.MonkeyPatch) -> None:
    from symmoe.cli.batch import _seconds_until

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for day, hours in ((27, 7), (28, 6)):
            assert _seconds_until("06:00", datetime(2026, 3, day, 23, 0)) == hours * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_check_tells_what_a_file_would_take_and_what_is_wrong_with_it(symmoe_command: Symmoe, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": number, "prompt": f"sums {number % 300}"}) for number in range(3000)]
    lines[1000:1000] = ["{", '{"id": 1, "prompt": "again"}', '{"text": "of no shape"}', '{"prompt": " "}', "[]"]
    source.write_text("\n".join(lines), encoding="utf-8")
    said = symmoe_command("batch", "check", source, "--json")
    assert said.code == 3
    told = said.json
    assert (told["lines"], told["good"], told["bad"], told["repeated"]) == (3005, 3000, 5, 2700)
    assert told["shapes"] == {"prompt": 3000}
    assert {code: (each["lines"], each["first"]) for code, each in told["causes"].items()} == {
        "invalid_json_line": (2, 1001),
        "duplicate_custom_id": (1, 1002),
        "unknown_shape": (1, 1003),
        "invalid_value": (1, 1004),
    }
    assert told["calls"] == 300
    assert told["experts"]["adder"]["calls"] == 300
    assert told["seconds"] > 0
    shown = symmoe_command("batch", "check", source)
    assert "3,000 of 3,005 rows can be asked; 2,700 repeat the prompt of an earlier row" in shown.out
    assert not list(tmp_path.glob("out*"))


def test_a_check_loads_nothing_and_ends_with_0_where_every_row_can_be_asked(symmoe_command: Symmoe) -> None:
    said = symmoe_command("batch", "check", *(PUBLIC / name for name in FILES))
    assert said.code == 0, said.out
    assert "1 loads" in said.out or "2 loads" in said.out or "3 loads" in said.out


def test_answers_are_scored_where_they_are_known(symmoe_command: Symmoe, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"  # an echo says the question again: right where that names the answer
    rows_in = [{"question": f"sums {n}", "answer": f"so {n}\n#### {n if n % 2 else n + 1}"} for n in range(10)]
    source.write_text("\n".join(map(json.dumps, rows_in)), encoding="utf-8")
    for name in ("out.jsonl", "out.csv"):
        said = symmoe_command("batch", "run", source, "-o", tmp_path / name, "--score", "--json")
        score = said.json["score"]
        assert (score["graded"], score["unknown"], score["right"]) == (10, 0, 5)
        assert score["by_expert"] == {"adder": [5, 10]}
    drawn = {"n": 3, "temperature": 1.0}
    rows_in = [{"prompt": row["question"], "answer": row["answer"], **drawn} for row in rows_in]
    several = tmp_path / "several.jsonl"
    several.write_text("\n".join(map(json.dumps, rows_in)), encoding="utf-8")
    for name in ("several.out.jsonl", "several.csv", "several.parquet"):  # by the first of their choices
        score = symmoe_command("batch", "run", several, "-o", tmp_path / name, "--score", "--json").json["score"]
        assert (score["graded"], score["unknown"], score["right"]) == (10, 0, 5)
    said = symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--reference", "answer")
    assert "Right answers" in said.out
    assert symmoe_command("batch", "run", source, "-o", tmp_path / "out.jsonl", "--reference", "key").code == 2
