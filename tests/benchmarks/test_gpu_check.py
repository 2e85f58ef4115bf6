"""The check for a GPU: its clockwork on commands of the test's own, and its whole way on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu_check import main as command
from benchmarks.gpu_check.checks import Check, bars_of
from benchmarks.gpu_check.main import main
from benchmarks.gpu_check.sleeping import measure


def check(name: str, code: str, seconds: float = 60.0, wants: tuple[str, ...] = ()) -> Check:
    words = ("{python}", "-c", code, "{out}")
    return Check(name, words, seconds, words, wants)


WRITES = "import json, sys; json.dump({'cells': []}, open(sys.argv[1], 'w'))"


def run(monkeypatch: pytest.MonkeyPatch, out: Path, checks: tuple[Check, ...], *words: str) -> dict[str, object]:
    monkeypatch.setattr(command, "CHECKS", checks)
    code = main(["--dry-run", "--out", str(out), *words])
    report: dict[str, object] = json.loads(out.read_text())
    return {"code": code, **report}


def test_a_check_that_fails_hangs_or_lacks_a_package_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = (
        check("fails", "raise SystemExit(3)"),
        check("hangs", f"{WRITES}; sys.stdin = None; import threading; threading.Event().wait()", seconds=3),
        check("lacks", WRITES, wants=("no_such_package",)),
        check("works", WRITES),
    )
    found = run(monkeypatch, tmp_path / "report.json", checks)
    told = {name: (each["status"], each.get("why")) for name, each in found["checks"].items()}  # type: ignore[attr-defined]
    assert told == {
        "fails": ("failed", "exit code 3"),
        "hangs": ("late", "stopped after 3 s"),
        "lacks": ("left out", "no_such_package cannot be imported"),
        "works": ("ok", None),
    }
    assert found["checks"]["hangs"]["report"] == {"cells": []}, "what it had written is kept"  # type: ignore[index]
    assert found["code"] == 1


def test_what_the_budget_does_not_reach_is_left_out_and_what_there_is_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(monkeypatch, tmp_path / "report.json", (check("late", WRITES),), "--budget", "1")
    assert found["checks"] == {"late": {"status": "left out", "seconds": 0.0, "why": "the time was spent"}}
    assert found["code"] == 0


def test_bars_are_held_to_what_was_measured_and_nothing_is_claimed_of_a_cpu() -> None:
    cells = [{"cell": "4", "efficiency": 0.95, "speedup": 7.5}, {"cell": "9c", "speedup": 6.0}]
    checks = {"loading": {"status": "ok", "report": {"cells": cells}}}
    on_gpu = {name: row["met"] for name, row in bars_of(checks, dry_run=False).items()}
    assert on_gpu == {
        "packed load, share of the pinned peak": True,
        "packed load over plain safetensors": False,
        "scatter over a copy per matrix": None,
        "wake of 7B shapes, times its bytes over the link": None,
    }
    assert all(row["met"] is None for row in bars_of(checks, dry_run=True).values())


def test_weights_sleep_in_plain_memory_and_come_back_copied_out_once() -> None:
    found = measure(0.0002, dry_run=True)
    assert found["bit_exact"]
    assert found["copied_out"] == found["blocks"] > 10


@pytest.mark.slow
def test_on_a_cpu_every_check_runs_to_its_end_with_a_stand_in(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    assert main(["--dry-run", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    told = {name: each["status"] for name, each in found["checks"].items()}
    assert told == dict.fromkeys(("loading", "sleep", "tests", "engines", "swap", "batch"), "ok"), found["checks"]
    assert found["checks"]["tests"]["failed"] == []
    assert found["checks"]["engines"]["report"]["same_answers"]
