from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Symmoe


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"id": f"{n}", "question": f"sums {n}", "answer": f"{n}", "family": "sums", "scorer": "number"}
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_report_and_a_page_stand_beside_each_other(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "quality.json"
    said = symmoe_command("bench", "quality", "--pool", pool, "--suite", suite, "-o", out)
    assert said.code == 0
    assert "Mixture-of-Agents" in said.out
    report = json.loads(out.read_text())
    assert report["suites"] == {"mine": 4}
    assert out.with_suffix(".html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_options_reach_the_ways(symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path) -> None:
    words = ("--k", 1, "--proposers", 2, "--samples", 4, "--temperature", 0.5, "--seed", 9)
    said = symmoe_command(
        "bench", "quality", "--pool", pool, "--suite", suite, "-o", tmp_path / "q.json", *words, "--json"
    )
    settings = said.json["settings"]
    assert (settings["k"], settings["moa_proposers"], settings["self_moa_samples"], settings["seed"]) == (1, 2, 4, 9)
    assert settings["sampling"]["temperature"] == 0.5
    calls = {name: row["calls"] for name, row in said.json["ways"].items()}
    assert (calls["moa"], calls["self_moa"], calls["random_vote"], calls["symbolic_moe"]) == (12, 20, 4, 8)


def test_the_aggregator_of_the_rivals_may_be_named(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    words = ("bench", "quality", "--pool", pool, "--suite", suite, "-o", tmp_path / "q.json", "--json")
    assert symmoe_command(*words).json["settings"]["aggregator"] == "adder"
    assert symmoe_command(*words, "--aggregator", "sorter").json["settings"]["aggregator"] == "sorter"
    assert symmoe_command(*words, "--aggregator", "nobody").code == 2


def test_a_suite_with_a_bad_line_is_refused_with_its_number(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    with suite.open("a", encoding="utf-8") as file:
        file.write('{"id": "x", "question": "sums", "answer": "1", "scorer": "guess"}\n')
    said = symmoe_command("bench", "quality", "--pool", pool, "--suite", suite, "-o", tmp_path / "q.json")
    assert said.code == 2
    assert len(said.errors) == 1
    assert "mine.jsonl: line 5: scorer" in said.errors[0]
    assert not (tmp_path / "q.json").exists()


def test_aggregation_skills_go_into_a_profile_file(
    symmoe_command: Symmoe, pool: Path, suite: Path, tmp_path: Path
) -> None:
    out = tmp_path / "skilled.json"
    said = symmoe_command("aggregator", "bench", "--pool", pool, "--suite", suite, "-o", out, "--json")
    before = json.loads(pool.with_name("profiles.json").read_text())
    after = json.loads(out.read_text())
    assert after["about"]["aggregation"] == "mine.jsonl"
    for name, record in after["experts"].items():
        assert record["skills"] == before["experts"][name]["skills"]
        assert sum(record["aggregation"]["number"]) == said.json["tasks"] == 4
    assert symmoe_command("profile", "merge", out, "-o", tmp_path / "again.json").code == 0


def test_without_a_file_the_skills_are_only_shown(symmoe_command: Symmoe, pool: Path, suite: Path) -> None:
    before = pool.with_name("profiles.json").read_bytes()
    said = symmoe_command("aggregator", "bench", "--pool", pool, "--suite", suite)
    assert said.code == 0
    assert "points over chance" in said.out
    assert pool.with_name("profiles.json").read_bytes() == before
