from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.planning.costs import keep_observations
from symmoe.store import open_store
from symmoe.types import Observation

from .conftest import Symmoe

pytestmark = pytest.mark.usefixtures("no_engine")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.jsonl"
    words = ("sums", "spanish", "sorting")
    rows = [{"id": str(number), "prompt": f"{words[number % 3]} {number}"} for number in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_call_stands_in_one_step_and_workers_end_when_they_say(
    symmoe_command: Symmoe, pool: Path, many: Path
) -> None:
    said = symmoe_command("plan", "show", "--pool", pool, "--input", many, "--workers", 2, "--json")
    found = said.json
    generated = [span for span in found["spans"] if span["kind"] == "generate"]
    assert sum(span["requests"] for span in generated) == found["calls"] == 60
    assert found["makespan"] == max(span["end"] for span in generated) == max(w["seconds"] for w in found["workers"])
    assert found["bound"] <= found["makespan"]
    assert found["guessed"] == ["adder", "sorter", "speaker"]


def test_the_chart_names_experts_and_says_when_the_batch_is_done(
    symmoe_command: Symmoe, pool: Path, many: Path
) -> None:
    said = symmoe_command("plan", "show", "--pool", pool, "--input", many, "--workers", 2)
    assert said.code == 0
    assert "█" in said.out
    assert "░" in said.out
    assert all(name in said.out for name in ("adder", "speaker", "sorter"))
    assert "done after" in said.out
    assert "guessed" in said.err


def test_costs_that_the_store_knows_are_used(symmoe_command: Symmoe, pool: Path, many: Path) -> None:
    seen = [
        observation
        for name in ("adder", "speaker", "sorter")
        for observation in (
            Observation(name, 100.0, "rebuild"),
            Observation(name, 50.0, "merged"),
            Observation(name, 400.0, requests=200),
        )
    ]
    keep_observations(open_store(), "echoes:echo", seen)
    found = symmoe_command("plan", "show", "--pool", pool, "--input", many, "--workers", 1, "--json").json
    assert found["guessed"] == []
    assert found["makespan"] == 100 + 2 * 50 + 60 * 2


def test_prefetching_makes_the_batch_shorter(symmoe_command: Symmoe, pool: Path, many: Path) -> None:
    words = ("plan", "show", "--pool", pool, "--input", many, "--json")
    ends = [symmoe_command(*words, *more).json["makespan"] for more in ((), ("--prefetch",))]
    assert ends[1] < ends[0]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_is_what_its_name_says(
    symmoe_command: Symmoe, pool: Path, many: Path, tmp_path: Path, suffix: str, magic: bytes
) -> None:
    picture = tmp_path / "new" / f"plan.{suffix}"
    said = symmoe_command("plan", "show", "--pool", pool, "--input", many, "--workers", 3, "--out", picture)
    assert said.code == 0
    assert picture.read_bytes().startswith(magic)
    assert str(picture) in said.out.replace("\n", "")


def test_a_suite_can_be_planned_for(symmoe_command: Symmoe, pool: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    suite.write_text('{"id": "1", "question": "sums 1", "answer": "2"}\n', encoding="utf-8")
    found = symmoe_command("plan", "show", "--pool", pool, "--suite", suite, "--json").json
    assert (found["questions"], found["skipped"]) == (1, 0)


def test_lines_that_cannot_be_asked_are_counted(symmoe_command: Symmoe, pool: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "a", "prompt": "sums"}\nnonsense\n', encoding="utf-8")
    words = ("plan", "show", "--pool", pool, "--input", source)
    assert symmoe_command(*words, "--json").json["skipped"] == 1
    assert "1 lines cannot be asked" in symmoe_command(*words).err


def test_a_line_of_several_prompts_is_one_line(symmoe_command: Symmoe, pool: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    body = {"model": "symmoe/auto", "prompt": ["sums 1", "sums 2", "sums 3"]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    source.write_text(json.dumps(line) + "\nnonsense\n", encoding="utf-8")
    found = symmoe_command("plan", "show", "--pool", pool, "--input", source, "--json").json
    assert (found["questions"], found["skipped"]) == (3, 1)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--suite", "s", "--input", "i"), "both given"),
        (("--out", "plan.txt"), "cannot be written as '.txt'"),
        (("--aggregator", "nobody"), "no expert 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    symmoe_command: Symmoe, pool: Path, words: tuple[str, ...], error: str
) -> None:
    said = symmoe_command("plan", "show", "--pool", pool, *words)
    assert (said.code, len(said.errors)) == (2, 1)
    assert error in said.errors[0]


def test_a_file_without_questions_is_refused(symmoe_command: Symmoe, pool: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("nonsense\n", encoding="utf-8")
    said = symmoe_command("plan", "show", "--pool", pool, "--input", tmp_path / "none.jsonl")
    assert (said.code, len(said.errors)) == (2, 1)
