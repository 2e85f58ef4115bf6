"""`symmoe bench lines`: time and memory of a batch of many lines apart from the engine, which only echoes.

Each run is its own process. The rival way, as in `vllm run-batch`, reads the whole file, holds every answer, and writes
all at the end, over the same pipeline.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from symmoe.batch.checking import look, verify
from symmoe.batch.job import BatchJob, run_batch
from symmoe.batch.lines import GoodLine, LineReader
from symmoe.batch.output import TraceWriter, open_output
from symmoe.batch.record import Files
from symmoe.bench.machine import busy_seconds, peak_mib
from symmoe.build import Assembly
from symmoe.config import STATIC, TINY, Pool, read_pool
from symmoe.errors import EngineError
from symmoe.pipeline import Watch, answer
from symmoe.store import open_store
from symmoe.types import Candidate

K, ROW_BYTES, PROMPT_BYTES = 3, 1000, 940
WINDOW = 4096
"""The context window, in tokens, that lines are checked against."""
_COMMON = (
    "the of and what is to in how a that it for which are on with as does be at this from many or by one between sum "
    "number sort list roman spanish translate date days reverse words calculate energy contract war proof code price"
).split()
_SYLLABLES = "ba ce di fo gu ha le mi no pu ra se ti vo wu ka lo ne".split()
_RARE = [first + second + third for first in _SYLLABLES for second in _SYLLABLES for third in _SYLLABLES]
_PHRASES, _PHRASE = 20_000, 8


def measure(
    lines: int,
    pool: str = TINY,
    seed: int = 0,
    tell: Callable[[str], None] = lambda words: None,
    keep: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Run jobs of `lines` and of a tenth of them, and that tenth the rival way; then verify, check and resume.

    `pool`, a name or a file, gives experts, taxonomy and records; all experts echo. `keep` is called with the report
    whenever something was added.
    """
    small = lines // 10
    echoes = echo_pool(pool)
    runs: dict[str, dict[str, Any]] = {}
    report: dict[str, Any] = {"lines": lines, "row_bytes": ROW_BYTES, "k": K, "runs": runs}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = {count: _write(folder / f"in{count}.jsonl", count, seed) for count in (small, lines)}
        _child("load", pool, sources[small], folder / "none")  # the first use of an embedder may have to distil it
        for name, way, count in (("small", "ours", small), ("rival", "rival", small), ("large", "ours", lines)):
            tell(f"{count} lines, {way}")
            runs[name] = _child(way, pool, sources[count], folder / f"{name}.jsonl")
            keep(report)
        output = folder / "large.jsonl"
        tell("verifying")
        began = time.perf_counter()
        found = verify([sources[lines]], output)
        verified = round((found.lines + found.rows) / 2 / (time.perf_counter() - began))
        report |= {"verify_rows_per_second": verified, "whole": found.whole}
        keep(report)
        tell("checking")
        began, cpu = time.perf_counter(), time.process_time()
        look(LineReader(echoes).read(sources[lines]), WINDOW, seed)
        report["check"] = {
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
        keep(report)
        tell("resuming")
        _kill_at(output, lines - lines // 100)
        report["resumed"] = _child("resume", pool, sources[lines], output)
    report["bars"] = _bars(report)
    keep(report)
    return report


def _bars(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    small, large = report["runs"]["small"], report["runs"]["large"]

    def times(what: str, digits: int) -> float:
        return round(float(large[what]) / float(small[what]), digits)

    measured: dict[str, tuple[float, float]] = {
        "driver, MiB at most": (large["peak_mib"], 512),
        "memory against a tenth of the lines, times at most": (times("peak_mib", 3), 1.1),
        "lines a second, at least": (large["lines_per_second"], 2000),
        "first row after the first answer, seconds at most": (large["first_row_seconds"], 5),
        "store, MiB at most": (large["store_mib"], 50),
        "time against a tenth of the lines, times at most": (times("seconds", 2), 10.5),
        "CPU against a tenth of the lines, times at most": (times("cpu_seconds", 2), 10.5),
        "resumed at 99 %: first new row, seconds at most": (report["resumed"]["first_new_row_seconds"], 10),
        "verified, rows a second at least": (report["verify_rows_per_second"], 50_000),
        "checked, seconds at most": (report["check"]["seconds"], 60),
    }
    return {name: {"measured": value, "bar": bar} for name, (value, bar) in measured.items()}


def echo_pool(name: str) -> Pool:
    """The pool, with experts that echo and a static embedder, and `K` experts for each line."""
    return echoing(read_pool(name), k=K)


def echoing(pool: Pool, **routing: Any) -> Pool:
    """The pool, with an engine that echoes, a static embedder, and these settings of routing."""
    embedder = f"{STATIC}{pool.routing.embedder.removeprefix(STATIC)}"
    engine = pool.engine.model_copy(update={"kind": "echo"})
    asked = pool.routing.model_copy(update={"embedder": embedder, **routing})
    return pool.model_copy(update={"engine": engine, "routing": asked})


def run_child(way: str, named: str, source: str, output: str) -> None:
    """Run one job and print its measurements as JSON. `way` is ours, resume, rival, or load: nothing but the models."""
    pool, store = echo_pool(named), open_store()
    job = BatchJob((source,), Path(output), pool, "bench", K, 0)
    assembly = Assembly(pool)
    assembly.embedder.embed(["load the model before the clock starts"])
    if way == "load":
        sys.stdout.write("{}\n")
        return
    before, busy_before = store.used_bytes(), busy_seconds()
    began, cpu, helped_before = time.perf_counter(), time.process_time(), _helpers()
    first = _First(job.output)
    watch = Watch(candidates=first.answered)
    if way == "rival":
        answered = _all_at_once(job, assembly, watch)
    else:
        answered = run_batch(job, assembly, store, way == "resume", watch).answered
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    row, helping = first.stop(), _helpers() - helped_before
    report = {
        "lines": answered,
        "calls": first.calls,
        "seconds": round(seconds, 2),
        "lines_per_second": round(answered / seconds, 1),
        "cpu_seconds": round(spent, 2),
        "helper_cpu_seconds": round(helping, 2),
        "others_cpu_seconds": round(busy_seconds() - busy_before - spent - helping, 2),
        "peak_mib": peak_mib(),
        "first_row_seconds": None
        if row is None or first.answered_at is None
        else round(max(0.0, row - first.answered_at), 2),
        "first_new_row_seconds": None if row is None else round(row - began, 2),
        "store_mib": round((store.used_bytes() - before) / 2**20, 2),
    }
    sys.stdout.write(json.dumps(report) + "\n")


def _helpers() -> float:
    """CPU seconds of child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _First:
    """Notes when the first answer arrives and when the output first grows."""

    def __init__(self, output: Path) -> None:
        self.answered_at: float | None = None
        self.calls = 0
        self._output, self._before = output, output.stat().st_size if output.exists() else 0
        self._row: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def answered(self, candidates: Sequence[Candidate]) -> None:
        """Note that answers arrived."""
        self.answered_at = self.answered_at or time.perf_counter()
        self.calls += sum(not each.shared for each in candidates)

    def stop(self) -> float | None:
        """Stop watching. Returns when the output first grew, None if it did not."""
        self._over.set()
        self._thread.join()
        return self._row

    def _look(self) -> None:
        last = False
        while self._row is None and not last:
            last = self._over.wait(0.05)
            size = self._output.stat().st_size if self._output.exists() else 0
            self._before = min(self._before, size)  # a resumed job first cuts off what follows the last commit
            if size > self._before:
                self._row = time.perf_counter()


def _all_at_once(job: BatchJob, assembly: Assembly, watch: Watch) -> int:
    """The rival way: read all lines, hold all candidates and traces, write everything at the end."""
    lines = [line for line in job.lines(job.sources) if isinstance(line, GoodLine)]
    queries, policies = [line.queries[0] for line in lines], [line.policy for line in lines]
    results = answer(assembly.parts(), queries, policies, job.seed, watch=watch).results
    rows, traces = open_output(job.output, job.name, 0), TraceWriter(job.trace)
    for line, result in zip(lines, results, strict=True):
        rows.write(line, [result])
        traces.write(line, [result])
    rows.close()
    traces.close()
    return len(lines)


def _child(way: str, pool: str, source: Path, output: Path) -> dict[str, Any]:
    code = f"from symmoe.bench.lines import run_child; run_child({way!r}, {pool!r}, {str(source)!r}, {str(output)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"a job to measure failed: {(done.stderr.strip() or 'without a message').splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _write(path: Path, count: int, seed: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_rows(count, random.Random(seed)))
    return path


def _rows(count: int, rng: random.Random) -> Iterator[str]:
    """Distinct rows of about `ROW_BYTES` bytes.

    Their numbers have six digits, spread however few rows there are: those have to do with how many experts are asked.
    """
    phrases = [" ".join(_words(_PHRASE, rng)) for _ in range(_PHRASES)]
    for number in range(count):
        words = rng.choices(phrases, k=PROMPT_BYTES // (4 * _PHRASE))
        shown = 100_000 + number * 577_777 % 900_000
        text = f"Question {shown}: {' '.join(words)}"[:PROMPT_BYTES]
        yield json.dumps({"id": f"q{number}", "prompt": text}) + "\n"


def _words(count: int, rng: random.Random) -> list[str]:
    return [rng.choice(_RARE) if rng.random() < 0.6 else rng.choice(_COMMON) for _ in range(count)]


def _kill_at(output: Path, lines: int) -> None:
    """Put a job into the state after a kill at `lines` lines, by removing later commits."""
    commits = Files(output).folder / "commits"
    settings, *rest = commits.read_bytes().splitlines(keepends=True)
    commits.write_bytes(b"".join([settings, *(each for each in rest if json.loads(each)["lines"] <= lines)]))
