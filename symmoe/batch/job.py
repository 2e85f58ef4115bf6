"""One batch job: what it has done lives in the store, so that it can die at any moment and go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from symmoe.batch.lines import BadLine, GoodLine, LineReader
from symmoe.batch.output import refused_row, result_row, trace_line, write_jsonl
from symmoe.config import Pool
from symmoe.errors import JobError
from symmoe.pipeline import Parts, Watch, answer
from symmoe.planning.costs import keep_observations
from symmoe.protocols import Store
from symmoe.types import Candidate, Outcome, Refusal, Trace, to_json


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What decides a job's results, and where they go. `pool_fingerprint` stands for every weight and record used.

    `k` is for lines that do not say it, None for the pool's. With `explain` the traces say why experts were chosen; the
    results are the same.
    """

    source: Path
    output: Path
    pool: Pool
    pool_fingerprint: str
    k: int | None
    seed: int
    explain: bool = False

    @property
    def trace(self) -> Path:
        """The trace file beside the output."""
        return self.output.with_name(f"{self.output.stem}.trace.jsonl")

    @property
    def name(self) -> str:
        """The job's name in the store: one per output file."""
        return hashlib.sha256(str(self.output.resolve()).encode()).hexdigest()[:16]

    def fingerprint(self) -> str:
        """Equal for two jobs whose candidates may be shared."""
        with self.source.open("rb") as file:
            source = hashlib.file_digest(file, "sha256").hexdigest()
        decided = [source, self.pool_fingerprint, self.k, self.seed]
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a job. `outcome` is None for one that had been finished before.

    `ignored` counts the lines that have a field without effect, by its name.
    """

    answered: int
    failed: int
    resumed: int
    outcome: Outcome | None
    ignored: Mapping[str, int] = field(default_factory=dict)


class PartsSource(Protocol):
    """Gives the pipeline's parts when there is something to run."""

    def parts(self) -> Parts:
        """The parts, built on first use."""
        ...


class Progress:
    """The job's record in the store: its fingerprint, its candidates, and whether it is finished."""

    def __init__(self, store: Store, job: BatchJob) -> None:
        self._store = store
        self._facts = f"batch:{job.name}:facts"
        self._candidates = f"batch:{job.name}:candidates"

    def begin(self, fingerprint: str, resume: bool) -> dict[str, Any]:
        """Start anew, or go on where a job with the same fingerprint stopped. Gives the job's facts."""
        facts = self._store.rows(self._facts)
        if resume and facts and facts["job"]["fingerprint"] != fingerprint:
            raise JobError(
                "cannot resume: the input, the pool, k or the seed is not what the unfinished job had",
                hint="restore them, or run without --resume to start over",
            )
        if not resume or not facts:
            self._store.drop([self._facts, self._candidates])
            self._store.put(self._facts, {"job": {"fingerprint": fingerprint, "created": int(time.time())}})
            facts = self._store.rows(self._facts)
        return facts

    def candidates(self) -> list[Candidate]:
        """What was generated so far."""
        return [Candidate.from_json(row) for row in self._store.rows(self._candidates).values()]

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Keep candidates; one kept before stays as it was."""
        rows = {json.dumps([c.query_id, c.expert, c.slot]): to_json(c) for c in candidates}
        self._store.put(self._candidates, rows)

    def finish(self, answered: int, failed: int) -> None:
        """Record that the output is written, and let go of the candidates."""
        self._store.put(self._facts, {"finished": {"answered": answered, "failed": failed}})
        self._store.drop([self._candidates])


def run_batch(job: BatchJob, parts: PartsSource, store: Store, resume: bool, watch: Watch) -> BatchResult:
    """Answer every line of `job.source` into `job.output`, in order, and the traces beside it.

    Killed at any moment and resumed, it generates only what is missing; the output appears when it is whole.
    """
    _make_room(job)
    lines = list(LineReader(job.pool, job.k).read(job.source))
    progress = Progress(store, job)
    facts = progress.begin(job.fingerprint(), resume)
    if "finished" in facts and job.output.exists() and job.trace.exists():
        return BatchResult(**facts["finished"], resumed=0, outcome=None)

    good = [line for line in lines if isinstance(line, GoodLine)]
    known = progress.candidates()
    outcome = Outcome(())
    if good:
        queries = [query for line in good for query in line.queries]
        policies = [line.policy for line in good for _ in line.queries]
        outcome = answer(parts.parts(), queries, policies, job.seed, known, _keeping(progress, watch), job.explain)
        keep_observations(store, job.pool.name, outcome.observations)

    each = iter(outcome.results)
    results = {line.number: list(islice(each, len(line.queries))) for line in good}
    traces = [result for result in outcome.results if isinstance(result, Trace)]
    answered = sum(all(isinstance(result, Trace) for result in found) for found in results.values())
    created = facts["job"]["created"]
    try:
        write_jsonl(job.trace, map(trace_line, traces))
        write_jsonl(job.output, (_output_line(line, results, job.name, created) for line in lines))
    except OSError as error:
        hint = "nothing is lost: make it writable and run again with --resume"
        raise JobError(f"{error.filename or job.output}: cannot be written ({error.strerror})", hint=hint) from error
    progress.finish(answered, len(lines) - answered)
    ignored = Counter(name for line in good for name in line.ignored)
    return BatchResult(answered, len(lines) - answered, len(known), outcome, ignored)


def _make_room(job: BatchJob) -> None:
    """Tell what would keep the output from being written before anything is generated."""
    if job.source.resolve() in (job.output.resolve(), job.trace.resolve()):
        raise JobError(f"{job.source}: the output or its trace would overwrite the input", hint="name another output")
    if job.output.exists() and not job.output.is_file():
        raise JobError(f"{job.output}: is a directory or a device", hint="name a file")
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{job.output.parent}: is no directory for the output ({error.strerror})") from error


def _output_line(
    line: GoodLine | BadLine, results: Mapping[int, Sequence[Trace | Refusal]], job: str, created: int
) -> dict[str, Any]:
    if isinstance(line, BadLine):
        return refused_row(line, job)
    return result_row(line, results[line.number], job, created)


def _keeping(progress: Progress, watch: Watch) -> Watch:
    """The same watch, told of candidates only after they are in the store."""

    def both(candidates: Sequence[Candidate]) -> None:
        progress.add(candidates)
        watch.candidates(candidates)

    return replace(watch, candidates=both)
