from __future__ import annotations

import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symmoe.batch.checking import verify
from symmoe.batch.record import Record
from symmoe.errors import EngineError, InputError, StoreError

from .conftest import Bench, Rows, essence, ids, questions

Benches = Callable[[], Bench]
ROWS: list[dict[str, object] | bytes] = [
    *questions(12, 9),
    b"{",
    {"id": "long", "prompt": "sums " * 64},
    {"id": "sampled", "prompt": "sums 1", "temperature": 1.0},
    {"id": "q0", "prompt": "used before"},
    {"id": "last", "prompt": "nothing at all"},
]

every_fault = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def undisturbed(benches: Benches) -> Bench:
    bench = benches()
    bench.write(*ROWS)
    bench.run()
    return bench


def resumed(bench: Bench) -> Rows:
    bench.engine.lasts = bench.store.lasts = None
    bench.run(resume=True)
    return bench.rows()


def test_a_job_resumed_after_its_engine_died_at_any_generation_gives_the_undisturbed_output(
    undisturbed: Bench, benches: Benches
) -> None:
    for lasts in range(len(undisturbed.engine.asked)):
        bench = benches()
        bench.write(*ROWS)
        bench.engine.lasts = lasts
        with pytest.raises(EngineError):
            bench.run()
        assert essence(resumed(bench)) == essence(undisturbed.rows())
        assert len(bench.engine.asked) == len(undisturbed.engine.asked)


def test_a_job_resumed_after_its_store_failed_at_any_write_gives_the_undisturbed_output(
    undisturbed: Bench, benches: Benches
) -> None:
    for lasts in range(undisturbed.store.writes):
        bench = benches()
        bench.write(*ROWS)
        bench.store.lasts = lasts
        with pytest.raises(StoreError):
            bench.run()
        assert essence(resumed(bench)) == essence(undisturbed.rows())


@every_fault
@given(st.lists(st.tuples(st.sampled_from(["engine", "store"]), st.integers(0, 12)), max_size=6))
def test_a_job_disturbed_again_and_again_gives_the_undisturbed_output_in_the_end(
    undisturbed: Bench, benches: Benches, faults: list[tuple[str, int]]
) -> None:
    bench = benches()
    bench.write(*ROWS)
    for part, after in faults:
        bench.engine.lasts = len(bench.engine.asked) + after if part == "engine" else None
        bench.store.lasts = bench.store.writes + after if part == "store" else None
        try:
            bench.run(resume=True)
        except (EngineError, StoreError):
            continue
        break
    assert essence(resumed(bench)) == essence(undisturbed.rows())
    expected = [row["id"] for row in questions(12)] + [None, "long", "sampled", None, "last"]
    assert ids(bench.rows()) == expected


def test_an_output_from_before_is_kept_beside_the_new_one(undisturbed: Bench) -> None:
    before = undisturbed.output.read_bytes()
    undisturbed.write(*questions(3))
    undisturbed.engine.lasts = len(undisturbed.engine.asked) + 1
    with pytest.raises(EngineError):
        undisturbed.run()
    assert undisturbed.output.with_name("out.jsonl.before").read_bytes() == before
    assert ids(resumed(undisturbed)) == ["q0", "q1", "q2"]


@pytest.mark.parametrize("edited", [{"question": "A"}, {"question": "another"}])
@pytest.mark.parametrize("again", [True, False])
def test_a_row_that_says_not_how_to_read_it_stays_a_failed_one(
    bench: Bench, edited: dict[str, object], again: bool
) -> None:
    bench.write({"question": "A"}, {"x": 1})
    assert bench.run(stop=False).failed == 1
    bench.write(edited, {"x": 1})
    result = bench.run(stop=False, resume=True, again=again)
    assert (result.answered, result.failed) == (1, 1)
    assert [row["question"] for row in bench.rows() if "question" in row] == [edited["question"]]


def test_an_input_that_can_no_longer_be_read_leaves_the_rows_where_they_are(bench: Bench) -> None:
    bench.write({"question": "A"}, {"x": 1})
    bench.run(stop=False)
    before = bench.output.read_bytes()
    bench.write({"y": 1}, {"x": 1})
    for again in (True, False):
        with pytest.raises(InputError, match="known to hold a question"):
            bench.run(stop=False, resume=True, again=again)
        assert bench.output.read_bytes() == before


@pytest.mark.parametrize("begun", [True, False])
def test_a_job_begun_anew_keeps_rows_that_had_been_put_aside(bench: Bench, begun: bool) -> None:
    bench.write(*questions(3))
    bench.run()
    before = bench.output.read_bytes()
    bench.write(*questions(4)[1:])
    record = Record(bench.job().files)
    record.resume()
    record.put_aside()
    record.close()
    if begun:  # and ended before its first window was written
        bench.output.touch()
    bench.run()
    assert bench.output.with_name("out.jsonl.before").read_bytes() == before


def test_a_row_of_two_shapes_that_was_appended_fails_by_itself_and_is_tried_again(bench: Bench) -> None:
    bench.write({"question": "A"})
    bench.run(stop=False)
    bench.write({"question": "A"}, {"question": "a", "prompt": "b"})
    assert bench.run(stop=False, resume=True).failed == 1
    result = bench.run(stop=False, resume=True, again=True)
    assert (result.answered, result.failed) == (1, 1)


def test_a_job_whose_output_is_written_but_not_recorded_as_finished_writes_it_again_equal(
    undisturbed: Bench, benches: Benches
) -> None:
    bench = benches()
    bench.write(*ROWS)
    bench.store.lasts = undisturbed.store.writes - 1
    with pytest.raises(StoreError):
        bench.run()
    written = bench.output.read_bytes()
    asked = len(bench.engine.asked)
    resumed(bench)
    assert bench.output.read_bytes() == written
    assert len(bench.engine.asked) == asked


def test_each_attempt_that_generates_one_more_ends_with_all_of_them(undisturbed: Bench, benches: Benches) -> None:
    bench = benches()
    bench.write(*ROWS)
    for attempt in count(1):
        bench.engine.lasts = attempt
        try:
            bench.run(resume=True)
        except EngineError:
            continue
        break
    assert len(bench.engine.asked) == len(undisturbed.engine.asked)
    assert essence(bench.rows()) == essence(undisturbed.rows())


ROOT = Path(__file__).parents[2]
COUNT = 200
EXPERTS_ASKED = 2


class Runs:
    """Starts runs of one batch job, and looks into their store."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._folder = bench.job().files.folder
        bench.write(*questions(COUNT))
        self.pool = bench.job().pool.root / "pool.yaml"

    def start(self, *options: str, lingers_after: float = math.inf) -> subprocess.Popen[str]:
        words = [
            "batch",
            "run",
            self.bench.source,
            "-o",
            self.bench.output,
            "--pool",
            self.pool,
            "--k",
            EXPERTS_ASKED,
            *options,
        ]
        return self.command(*map(str, words), lingers_after=lingers_after)

    def command(self, *words: str, lingers_after: float = math.inf) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.batch.slow_symmoe", *words]
        pipe = subprocess.PIPE
        env = {**os.environ, "LINGERS_AFTER": str(lingers_after)}
        return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=env)

    def start_and_signal(self, number: signal.Signals, at: int, *options: str) -> tuple[int, str]:
        """Send a signal when `at` candidates are kept; exit code and stderr."""
        with self.start(*options, lingers_after=at - self.candidates()) as process:
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
    assert ids(rows) == [row["id"] for row in questions(COUNT)]
    bench.store.tables.clear()
    bench.run(k=EXPERTS_ASKED)
    assert essence(rows) == essence(bench.rows())


def test_a_run_killed_three_times_and_resumed_answers_every_line_once(runs: Runs) -> None:
    for at in (1, 75, 200):
        before = runs.candidates()
        code, _ = runs.start_and_signal(signal.SIGKILL, at, "--resume")
        assert code == -signal.SIGKILL
        assert runs.candidates() >= max(before, at)
    kept = runs.candidates()
    with runs.start("--resume", "--json") as process:
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    summary = json.loads(printed)
    assert (summary["answered"], summary["failed"], summary["candidates_resumed"]) == (COUNT, 0, kept)
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
    (hint,) = [line for line in said.splitlines() if "Continue with: " in line]
    name, *words = shlex.split(hint.split("Continue with: ")[1])
    assert name == "symmoe"
    with runs.command(*words, "--json") as process:
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert json.loads(printed)["candidates_resumed"] >= 100
    assert ids(runs.bench.rows()) == [row["id"] for row in questions(COUNT)]


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
    assert ids(runs.bench.rows()) == [row["id"] for row in questions(COUNT)]
