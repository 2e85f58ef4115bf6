from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from symmoe.batch.record import Files
from symmoe.bench.lines import _kill_at, _rows, measure


def test_rows_are_of_a_kilobyte_and_no_two_alike() -> None:
    rows = list(_rows(50, Random(0)))
    assert len(set(rows)) == 50
    assert all(900 < len(row) < 1000 for row in rows)
    assert list(_rows(50, Random(0))) == rows


def test_a_job_is_left_as_a_kill_would_have_left_it(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    folder = Files(output).folder
    folder.mkdir()
    commits = [{"k": 3}, {"lines": 4}, {"lines": 12}, {"lines": 20}]
    (folder / "commits").write_text("".join(json.dumps(each) + "\n" for each in commits), encoding="utf-8")
    _kill_at(output, 15)
    assert [json.loads(line) for line in (folder / "commits").read_text().splitlines()] == commits[:3]


@pytest.mark.slow
def test_jobs_of_two_sizes_are_measured_beside_the_rival(state: Path) -> None:
    kept: list[set[str]] = []
    report = measure(1000, keep=lambda so_far: kept.append(set(so_far)))
    assert [len(each) for each in kept] == sorted(len(each) for each in kept)
    assert kept[0] == {"lines", "row_bytes", "k", "runs"}, "what was measured first is there when a later part fails"
    assert report["whole"]
    assert {name: run["lines"] for name, run in report["runs"].items()} == {"small": 100, "rival": 100, "large": 1000}
    assert report["resumed"]["first_new_row_seconds"] > 0
    assert all(bar["measured"] is not None for bar in report["bars"].values())
