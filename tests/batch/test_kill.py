"""Runs in processes of their own, ended without warning. `state` keeps their store out of the user's."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from symmoe.batch.verify import verify

from .conftest import Bench, essence, ids, questions

ROOT = Path(__file__).parents[2]
ROWS = 200
K = 2


class Runs:
    """Starts runs of one batch job, and looks into their store."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._folder = bench.job().files.folder
        bench.write(*questions(ROWS))
        self.pool = bench.job().pool.root / "pool.yaml"

    def start(self, *options: str) -> subprocess.Popen[str]:
        words = ["batch", "run", self.bench.source, "-o", self.bench.output, "--pool", self.pool, "--k", K, *options]
        return self.command(*map(str, words))

    def command(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.batch.slow_symmoe", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    def start_and_signal(self, number: signal.Signals, at: int, *options: str) -> tuple[int, str]:
        """Send a signal when `at` candidates are kept; exit code and stderr."""
        with self.start(*options) as process:
            self.wait_for(at, process)
            process.send_signal(number)
            _, said = process.communicate(timeout=300)
        return process.returncode, said

    def wait_for(self, candidates: int, process: subprocess.Popen[str]) -> None:
        """Wait until that many are kept, and no longer than the run goes on."""
        while self.candidates() < candidates:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
                pytest.fail("the run ended too early")

    def rows(self) -> int:
        """How many rows can be read."""
        return self.bench.output.read_bytes().count(b"\n") if self.bench.output.exists() else 0

    def candidates(self) -> int:
        """How many candidates are in the file of the window at work."""
        file = self._folder / "candidates"
        return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture
def runs(bench: Bench, state: Path) -> Runs:
    return Runs(bench)


def assert_as_undisturbed(bench: Bench) -> None:
    rows = bench.rows()
    assert ids(rows) == [row["id"] for row in questions(ROWS)]
    bench.store.tables.clear()
    bench.run(k=K)
    assert essence(rows) == essence(bench.rows())


def test_a_run_killed_three_times_and_resumed_answers_every_line_once(runs: Runs) -> None:
    for at in (1, 75, 250):
        before = runs.candidates()
        code, _ = runs.start_and_signal(signal.SIGKILL, at, "--resume")
        assert code == -signal.SIGKILL
        assert runs.candidates() >= max(before, at)
    kept = runs.candidates()
    with runs.start("--resume", "--json") as process:
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    summary = json.loads(printed)
    assert (summary["answered"], summary["failed"], summary["candidates_resumed"]) == (ROWS, 0, kept)
    assert_as_undisturbed(runs.bench)


@pytest.mark.slow
@pytest.mark.parametrize(("lines", "kills"), [(2_000, 5), (100_000, 20)])
def test_a_job_killed_at_random_and_resumed_has_every_line_once_each_time(runs: Runs, lines: int, kills: int) -> None:
    rng = random.Random(7)
    runs.bench.write(*questions(lines))
    written = 0
    for kill in range(kills):
        target = written + rng.randrange(1, max(2, (lines - written) // (kills - kill)))
        with runs.start("--resume", "--on-failure", "stop") as process:
            while runs.rows() < target:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
                    pytest.fail("the run ended too early")
            process.send_signal(signal.SIGKILL)
        found = verify([runs.bench.source], runs.bench.output)
        assert (found.twice, found.moved) == (0, 0)
        assert found.rows >= written, "what was written stays"
        written = target
    with runs.start("--resume", "--json") as process:
        printed, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    found = verify([runs.bench.source], runs.bench.output)
    assert (found.whole, found.rows, found.answered) == (True, lines, lines)
    assert json.loads(printed)["lines_kept"] >= written - 1024


def test_an_interrupted_run_exits_with_130_and_its_hint_goes_on_with_the_same_job(runs: Runs) -> None:
    code, said = runs.start_and_signal(signal.SIGINT, 100, "--seed", "5")
    assert code == 130
    assert "Traceback" not in said
    (hint,) = [line for line in said.splitlines() if "Go on with: " in line]
    name, *words = shlex.split(hint.split("Go on with: ")[1])
    assert name == "symmoe"
    with runs.command(*words, "--json") as process:
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert json.loads(printed)["candidates_resumed"] >= 100
    assert ids(runs.bench.rows()) == [row["id"] for row in questions(ROWS)]


def test_a_second_run_with_the_same_output_is_refused_while_the_first_goes_on(runs: Runs) -> None:
    with runs.start() as first:
        runs.wait_for(1, first)
        first.send_signal(signal.SIGSTOP)
        with runs.start("--json") as second:
            printed, said = second.communicate(timeout=300)
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=300)
    assert second.returncode == 2
    assert "another process is working on this output" in json.loads(printed)["error"]["message"]
    assert "Traceback" not in said
    assert first.returncode == 0
    assert ids(runs.bench.rows()) == [row["id"] for row in questions(ROWS)]
