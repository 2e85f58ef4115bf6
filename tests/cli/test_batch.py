from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Symmoe

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


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
    assert [row["symmoe_id"] for row in rows(output)] == ["a", "b"]


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
    (trace,) = rows(tmp_path / "out.trace.jsonl")
    assert trace["recruited"] == ["adder"]
    assert [row["symmoe_id"] for row in rows(tmp_path / "out.jsonl")] == ["a", None]


def test_with_explain_every_trace_says_how_the_experts_stood(symmoe_command: Symmoe, pool: Path, source: Path) -> None:
    for words, explained in (((), False), (("--explain",), True)):
        output = source.with_name(f"out{explained}.jsonl")
        assert symmoe_command("batch", "run", source, "-o", output, "--pool", pool, *words).code == 0
        traces = [json.loads(line) for line in output.with_name(f"{output.stem}.trace.jsonl").read_text().splitlines()]
        assert [trace["explanation"] is not None for trace in traces] == [explained] * 2
    assert {standing["expert"] for standing in traces[0]["explanation"]["standings"]} == {"adder", "speaker", "sorter"}
