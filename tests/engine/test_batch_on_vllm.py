"""A batch on real weights, killed without warning and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from symmoe.batch.record import Files
from symmoe.questions.suites import mixed_suite
from tests.stores import own_state

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FAMILIES = ["json", "radio", "roman", "spanish"]


def _symmoe(*words: str, state: Path) -> subprocess.Popen[bytes]:
    code = "from symmoe.cli.main import main; main()"
    environment = os.environ | {"SYMMOE_STATE": str(state)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _candidates(output: Path) -> int:
    """How many candidates a job at work has kept."""
    kept = Files(output).folder / "candidates"
    return kept.read_bytes().count(b"\n") if kept.exists() else 0


@pytest.fixture
def state() -> object:
    with TemporaryDirectory(prefix="symmoe-") as place, own_state(Path(place), cache=False) as directory:
        yield directory


def test_a_batch_killed_while_generating_answers_every_line_once_when_resumed(tmp_path: Path, state: Path) -> None:
    questions = mixed_suite(40, "test", 5, FAMILIES)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": q.id, "prompt": q.question}) + "\n" for q in questions))
    command = ("batch", "run", str(source), "-o", str(output), "--pool", "tiny", "--resume", "--json")

    with _symmoe(*command, state=state) as killed:
        while _candidates(output) < 20:
            time.sleep(0.01)
            assert killed.poll() is None, "the run ended before it could be killed"
        killed.send_signal(signal.SIGKILL)
    assert output.read_bytes() == b""

    with _symmoe(*command, state=state) as resumed:
        printed, _ = resumed.communicate(timeout=900)
    assert resumed.returncode == 0
    assert json.loads(printed)["candidates_resumed"] >= 20
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["symmoe_id"] for row in rows] == [q.id for q in questions]
    right = sum(row["answer"] == q.answer for row, q in zip(rows, questions, strict=True))
    assert right / len(questions) > 0.7
