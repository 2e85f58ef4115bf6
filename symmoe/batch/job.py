"""One batch job: windows of lines are read, routed, answered and written, one after the other, in bounded memory."""

from __future__ import annotations

import hashlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from heapq import merge
from itertools import chain, islice, product
from pathlib import Path
from typing import Any, Protocol

from symmoe.batch.lines import BadLine, GoodLine, KnownLine, KnownLines, LineReader, Lines
from symmoe.batch.naming import NamingProcess
from symmoe.batch.output import Detail
from symmoe.batch.progress import BatchResult, Loaded, Progress, Status
from symmoe.batch.record import PIPED, STATUS_SECONDS, Candidates, Files, Passing, Record, write_status
from symmoe.batch.spool import Asked, Place, Spool
from symmoe.batch.windows import answering_windows, choose_window
from symmoe.batch.writing import Line, Writing
from symmoe.config import Pool
from symmoe.errors import ErrorLimitError, JobError
from symmoe.pipeline import Ahead, Carried, Parts, Watch, answer, ask, first_asks, route
from symmoe.planning.costs import CostModel, keep_observations
from symmoe.planning.grouping import in_order
from symmoe.protocols import Store
from symmoe.rows.files import find_files, standard_input, would_find
from symmoe.rows.shapes import Reading
from symmoe.types import Candidate, Load, Observation, Outcome, Plan, Refusal, Trace

JUDGED_FROM = 1000
"""From so many lines on the rate of failed ones is looked at while a job runs."""
MANY, FAST = 8192, 300.0
"""After so many lines, and at so many a second, skills are named in a process of its own: this one is what limits."""
LIMITS = 0.9
"""Of a window's time this process is computing at least so much where it is what limits, and not the engines."""
_KEPT_OBSERVATIONS = 512
KEEP_SECONDS = 0.05
"""Candidates that come sooner one after another are kept together: engines that quick would wait for the disk."""
_UNWRITTEN = (".tsv", ".xlsx", ".arrow", ".gz", ".zst")
"""Endings that promise what JSON lines are not."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """The settings and files of a job. `pool_fingerprint` is a digest of every weight and record used.

    `sources` are files as `find_files` takes them, of which at most `limit` rows and a `share` are asked, read as
    `reading` says. `k` is for lines without one, None for the pool's. With `explain` the traces say why experts were
    chosen, and `detail` sets how much they hold; the results are the same. With `stop` the first expert that fails ends
    the job; otherwise others are asked. The job also ends if more than `max_error_rate` of its lines fail. `words` is
    the command line, kept for rerunning it.
    """

    sources: tuple[str, ...]
    output: Path
    pool: Pool
    pool_fingerprint: str
    k: int | None
    seed: int
    explain: bool = False
    stop: bool = False
    max_error_rate: float = 1.0
    words: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    detail: Detail = "full"
    limit: int | None = None
    share: float = 1.0

    def lines(self, sources: Sequence[str], known: KnownLines | None = None) -> Lines:
        """Its questions, read from the start. Raises `InputError`."""
        reader = LineReader(self.pool, self.k, replace(self.reading, score=False))
        return reader.read(*sources, limit=self.limit, share=self.share, known=known)

    @property
    def tabled(self) -> bool:
        """Whether the output is a table, from which no row can be reused."""
        return self.output.suffix.lower() in (".csv", ".parquet")

    @property
    def files(self) -> Files:
        """The output, and the files beside it."""
        return Files(self.output)

    @property
    def trace(self) -> Path:
        """The trace file beside the output."""
        return self.files.trace

    @property
    def name(self) -> str:
        """The job's name in the store: one per output file."""
        return hashlib.sha256(str(self.output.resolve()).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """The settings recorded with a job. The first four must be equal to resume it; how it is graded may differ."""
        how = asdict(replace(self.reading, score=False, reference=None)) | {
            "limit": self.limit,
            "sample": self.share,
            "trace": self.detail,
        }
        read = {name: value for name, value in how.items() if value not in (None, False)}
        decided = {"pool": self.pool_fingerprint, "k": self.k, "seed": self.seed, "read": read}
        return {**decided, "pool_name": self.pool.name, "created": int(time.time()), "words": dict(self.words)}


class PartsSource(Protocol):
    """Provides the pipeline's parts when there is something to run."""

    def parts(self) -> Parts:
        """The parts, built on first use."""
        ...

    def costs(self, store: Store) -> CostModel:
        """The costs of experts, from the runs in the store."""
        ...


def ignore_status(status: Status) -> None:
    """Ignores progress."""


def run_batch(
    job: BatchJob,
    parts: PartsSource,
    store: Store,
    resume: bool,
    watch: Watch,
    again: bool = False,
    on_status: Callable[[Status], None] = ignore_status,
    on_lines: Callable[[Lines], None] = lambda lines: None,
) -> BatchResult:
    """Answer every line of `job.sources` into `job.output`, in order, and the traces and errors beside it.

    `on_lines` receives the lines before any is asked. Rows appear a window at a time. A job killed at any moment and
    resumed generates only what is missing. Lines are identified by their content: of an input that was appended to,
    edited or reordered, only what changed is run. With `again` failed lines are run once more.
    """
    _make_room(job)
    sources = _present(job, resume, again)
    facts = f"batch:{job.name}:facts"
    record = Record(job.files)
    settings = _agreed(record, job) if resume else None
    try:
        if settings is None:
            job.lines(sources).close()  # what cannot be read is told before the last run's output goes
            settings = job.settings()
            record.start(settings)
        else:
            record.resume()
        if not resume or not store.rows(facts):
            store.drop([facts])
            store.put(facts, {"job": settings})
        reading, lines = _to_do(job, sources, record, again, on_lines)
        first = next(lines, None)
        if first is None and record.commit.finished:
            done = record.commit
            return BatchResult(done.answered, done.failed, causes=done.causes, kept=done.lines)
        progress = Progress(reading, record.commit.lines)
        candidates = Candidates(job.files.folder)
        candidates.recall(record.digests(), again)
        with _Run(
            job, sources, parts, store, record, candidates, progress, settings["created"], watch, on_status
        ) as run:
            result = run.finish(chain([] if first is None else [first], lines))
        store.put(facts, {"finished": {"answered": result.answered, "failed": result.failed}})
        return result
    except OSError as error:
        hint = "nothing is lost: make room, or make it writable, and run again with --resume"
        raise JobError(f"{error.filename or job.output}: cannot be written ({error.strerror})", hint=hint) from error
    finally:
        record.close()


Results = list[Trace | Refusal]


def in_turn(
    lines: Sequence[GoodLine],
    answer_all: Callable[[Sequence[GoodLine], Ahead | None], list[Results]],
    ahead: Ahead | None = None,
) -> dict[int, Results]:
    """The results of lines by number: one for each of their queries, then one for each of their later turns.

    `answer_all` gives the results of all that is asked at once; `ahead` is passed on the first call only.
    """
    results = {line.number: line_results for line, line_results in zip(lines, answer_all(lines, ahead), strict=True)}
    turns = [(line, line.after(results[line.number])) for line in lines if line.later]
    while asking := [(first, line) for first, line in turns if line is not None]:
        for (first, _), line_results in zip(asking, answer_all([line for _, line in asking], None), strict=True):
            results[first.number] += line_results
        turns = [(first, line.after(results[first.number])) for first, line in asking]
    return results


def _agreed(record: Record, job: BatchJob) -> dict[str, Any] | None:
    """The settings of the job that is resumed; None where there is none, or its files were removed.

    Raises `JobError` with the difference where it was begun under others.
    """
    settings = record.settings()
    output_exists = job.output.exists() and (job.trace.exists() or job.detail == "none")
    if settings is None or not (output_exists or record.put_aside_whole):
        return None
    wanted = job.settings()
    names = {"pool": "the pool or a file that it names", "k": "k", "seed": "the seed", "read": "how rows are read"}
    changes = [
        f"{name} has changed" if key == "pool" else f"{name} was {settings[key]} and is {wanted[key]}"
        for key, name in names.items()
        if settings[key] != wanted[key]
    ]
    if changes:
        raise JobError(
            f"cannot resume: {', '.join(changes)}", hint="restore what it was, or run without --resume to start over"
        )
    return settings


def _to_do(
    job: BatchJob, sources: Sequence[str], record: Record, again: bool, on_lines: Callable[[Lines], None]
) -> tuple[Lines, Iterator[Line]]:
    """The lines of the input, and which of them are to do.

    Those are the ones behind those that stand in their places; all, where the input or what failed wants that.
    """
    if record.commit.lines and not again:
        passing = Passing(record.written(), record.before())
        lines = job.lines(sources, passing)
        passing.changed = passing.changed or lines.differs
        next_line = next((line for line in lines if passing.changed or not _in_place(line)), None)
        numbers = merge(lines.standing, passing.numbers)  # others where blank lines came or went
        if not (passing.changed or lines.differs or passing.left or record.moved(numbers)):
            on_lines(lines)
            return lines, chain([] if next_line is None else [next_line], lines)
        lines.close()
    if record.commit.lines:
        if job.tabled:
            raise JobError(
                f"{job.output}: rows of a table stay as they are: no line can be tried again, no input be another",
                hint="name a .jsonl output, or run without --resume to start over",
            )
        job.lines(sources, Passing()).close()  # what cannot be read is told before the rows are put aside
        record.put_aside()
    lines = job.lines(sources, Passing((), record.before()))
    on_lines(lines)
    return lines, lines


def _in_place(line: Line) -> bool:
    return isinstance(line, KnownLine) and line.place is None


@dataclass(slots=True)
class _Piece:
    """A window's lines, and who answers them."""

    lines: list[Line]
    good: list[GoodLine]
    ahead: Ahead | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A window on disk: how many lines it has, what it asks, and who failed at that, with the reason."""

    lines: int
    piece: Place[_Piece]
    asked: Place[Asked]
    failed: dict[str, str] = field(default_factory=dict)


class _Run:
    """A job at work: one window is answered and written while the next is read and routed in a thread.

    Another thread brings what was written to the disk and commits it, while the next window's experts are got ready.
    """

    def __init__(
        self,
        job: BatchJob,
        sources: Sequence[str],
        parts: PartsSource,
        store: Store,
        record: Record,
        candidates: Candidates,
        progress: Progress,
        created: int,
        watch: Watch,
        tell: Callable[[Status], None],
    ) -> None:
        self._job, self._source, self._store, self._record = job, parts, store, record
        self._inputs = sources
        self._watch = replace(watch, planned=self._planned, candidates=self._on_candidates, loaded=self._loaded)
        self._watched, self._tell = watch, tell
        self._carried = Carried(stop=job.stop)
        self._window = choose_window(parts.costs(store).costs(), job.pool.engine.runs_models)
        self._size = min(self._window.lines, self._window.first)
        self._candidates, self._progress = candidates, progress
        self._digests: dict[str, str] = {}
        self._for_later, self._bad = False, 0
        self._observations: list[Observation] = []
        self._loads: list[Loaded] = []
        self._ways: dict[Loaded, Loaded] = {}
        self._seconds: dict[str, float] = {}
        self._tokens = self._resumed = self._kept = 0
        self._unkept: list[Candidate] = []
        self._kept_at = time.monotonic()
        self._began, self._shown_at, self._begun_with = time.monotonic(), 0.0, record.commit.lines
        self._status = Status()
        self._naming: NamingProcess | None = None
        self._at_work, self._files = ExitStack(), ExitStack()
        self._writing = Writing(job.files, job.name, created, job.detail, record, candidates)
        self._files.callback(self._writing.close)

    def __enter__(self) -> _Run:
        self._at_work.enter_context(answering_windows())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._at_work.close()
        if self._naming is not None:
            self._naming.close()
        with suppress(OSError):  # which is under way already, or says less than what is
            self._writing.settle()
        if self._unkept:
            with suppress(OSError):
                self._candidates.add(self._unkept, self._digests)
        self._candidates.close()
        if kind is not None:
            self._shown_at = 0.0
            self._status.state = "stopped"
            self._show()
            with ExitStack() as stack:  # the error that is under way says more than one of closing
                stack.push(lambda *_: True)
                self._files.close()
        keep_observations(self._store, self._job.pool.costs_name, self._observations)

    def finish(self, lines: Iterator[Line]) -> BatchResult:
        """Everything, to the end."""
        stat = _stat(self._inputs)
        with ThreadPoolExecutor(1, "ahead") as thread:
            pieces = self._pieces(lines, thread)
            for piece in pieces if self._window.together == 1 else self._asked_together(pieces):
                self._answer(piece)
                self._check_error_rate(JUDGED_FROM)
        self._writing.settle()
        self._files.close()
        if _stat(self._inputs) != stat:
            raise JobError(
                f"{', '.join(self._inputs)}: changed while it was read",
                hint="nothing is lost: run again with --resume, and only what changed is run",
            )
        self._check_error_rate(1)
        self._record.finish()
        self._status.state, self._shown_at = "finished", 0.0
        self._show()
        commit = self._record.commit
        return BatchResult(
            commit.answered,
            commit.failed,
            self._resumed,
            True,
            self._begun_with + self._kept,
            tuple(self._loads),
            self._seconds,
            commit.ignored,
            commit.causes,
            self._carried.lost,
            self._window.why,
        )

    def _pieces(self, lines: Iterator[Line], thread: ThreadPoolExecutor) -> Iterator[_Piece]:
        """The windows, each read and routed while the one before is worked on.

        If another process names skills, and this one limits, what is left for it is done in turn: two threads at work
        in one interpreter keep pushing each other's memory out of the cores' caches.
        """
        coming, limits = thread.submit(self._read, lines), True
        while (piece := coming.result()).lines:
            if piece.good and piece.ahead is None:
                self._route(piece)
            alone = self._names_beside(piece) and limits
            coming = thread.submit(self._read, lines, alone)
            if alone:
                wait([coming])
            self._progress.takes(len(piece.lines))
            began, computed = time.perf_counter(), time.process_time()
            yield piece
            limits = time.process_time() - computed >= LIMITS * (time.perf_counter() - began)

    def _asked_together(self, pieces: Iterator[_Piece]) -> Iterator[_Piece]:
        """The windows, of which several wait on disk until each expert was asked in all of them."""
        spool = Spool(self._job.files.folder)
        self._files.callback(spool.close)
        while waiting := self._ask_together(islice(pieces, self._window.together), spool):
            self._progress.takes(sum(each.lines for each in waiting), passed=1.0)
            for each in waiting:
                piece = spool.get(each.piece)
                if piece.ahead is not None:
                    piece.ahead = replace(piece.ahead, failed=each.failed)
                yield piece
            spool.clear()

    def _ask_together(self, pieces: Iterator[_Piece], spool: Spool) -> list[_Waiting]:
        """Ask every expert what several windows ask first.

        The first experts, one for each worker, are asked while the windows are read. No more are read once too many
        lines failed: that is told when the first are written.
        """
        waiting: list[_Waiting] = []
        order: list[str] = []
        first: list[str] = []
        left: set[str] = set()
        lines, at_once = 0, 1
        for piece in pieces:
            asked = Asked((), {})
            if piece.ahead is not None:
                parts = self._source.parts()
                order = order or in_order(parts.models, parts.models, self._carried.resident)
                at_once = len(parts.fleet.workers) if parts.fleet else 1
                queries, policies = _asked(piece.good)
                asks = first_asks(parts, queries, policies, self._job.seed, piece.ahead)
                asked = Asked(tuple(asks), _digests(piece.good))
            waiting.append(_Waiting(len(piece.lines), spool.put(piece), spool.put(asked)))
            first = first or [name for name in order if name in asked.experts][:at_once]
            left |= asked.experts.difference(first)
            lines += len(piece.lines)
            self._progress.takes(lines, (1 - 1 / len(waiting)) / (1 + math.ceil(len(left) / at_once)))
            self._ask(waiting[-1], asked, first)
            self._bad += sum(isinstance(line, BadLine) for line in piece.lines)
            if lines >= JUDGED_FROM and self._bad > self._job.max_error_rate * (self._record.commit.lines + lines):
                break
        order = [name for name in order if name in left]
        rounds = [order[place : place + at_once] for place in range(0, len(order), at_once)]
        for number, experts in enumerate(rounds, 1):
            for count, window in enumerate(waiting):
                self._progress.takes(lines, (number + count / len(waiting)) / (1 + len(rounds)))
                self._ask(window, spool.get(window.asked), experts)
        return waiting

    def _ask(self, window: _Waiting, asked: Asked, experts: Sequence[str]) -> None:
        """Ask experts what a window asks of them, and keep the candidates until it is answered."""
        if not (asks := asked.of(experts)):
            return
        self._digests, self._for_later = dict(asked.digests), True
        known, _ = self._found(take=False)
        homes = {name: worker for worker, name in enumerate(experts)}
        outcome, failed = ask(self._source.parts(), asks, homes, known, self._job.seed, self._watch, self._carried)
        window.failed.update(failed)
        self._account(outcome)
        self._for_later = False

    def _read(self, lines: Iterator[Line], begin: bool = False) -> _Piece:
        """The next window, and who answers it; or its lines, whose skills another process begins to name."""
        piece, room = _Piece([], []), self._window.bytes
        for line in islice(lines, self._size):
            piece.lines.append(line)
            if isinstance(line, GoodLine):
                piece.good.append(line)
                room -= line.origin.size + sum(len(message.content) for message in line.queries[0].messages)
            if room < 0:
                break
        if piece.good and begin and self._naming is not None:
            self._naming.begin(_asked(piece.good)[0])
        elif piece.good:
            self._route(piece)
        self._size = self._window.lines
        return piece

    def _route(self, piece: _Piece) -> None:
        """Find out who answers a window."""
        parts, (queries, policies) = self._source.parts(), _asked(piece.good)
        if self._naming is not None and self._naming.ready:
            parts = replace(parts, tagger=self._naming)
        piece.ahead = route(parts, queries, policies, self._job.seed, self._job.explain)

    def _names_beside(self, piece: _Piece) -> bool:
        """Whether another process names skills, which a long and fast job starts after one of its windows."""
        lines = self._record.commit.lines - self._begun_with - self._kept
        fast = lines >= MANY and lines >= FAST * (time.monotonic() - self._began)
        if self._naming is None and fast and piece.good:
            tagger = self._source.parts().tagger
            with suppress(OSError):  # where there is no room for one more, it is done here
                if NamingProcess.serves(tagger):
                    self._naming = NamingProcess(self._job.pool, tagger)
        return self._naming is not None and self._naming.ready

    def _answer(self, piece: _Piece) -> None:
        """Answer a window, write its rows, and let go of it."""
        results: dict[int, list[Trace | Refusal]] = {}
        if piece.good:
            results = in_turn(piece.good, self._answer_together, piece.ahead)
        self._writing.settle()
        self._show()
        began = time.perf_counter()
        for line in piece.lines:
            self._writing.write(line, results.get(line.number, []))
        self._writing.commit()
        self._kept_at = time.monotonic()  # the next candidates are in no hurry, but would wait for the commit
        known = sum(isinstance(line, KnownLine) for line in piece.lines)
        self._kept += known
        self._progress.writes(len(piece.lines), known)
        self._seconds["write"] = self._seconds.get("write", 0.0) + time.perf_counter() - began

    def _answer_together(self, lines: Sequence[GoodLine], ahead: Ahead | None) -> list[list[Trace | Refusal]]:
        """What becomes of each query of lines."""
        queries, policies = _asked(lines)
        self._digests = _digests(lines)
        known, recalled = self._found()
        self._resumed += recalled
        outcome = answer(
            self._source.parts(),
            queries,
            policies,
            self._job.seed,
            known,
            self._watch,
            self._job.explain,
            ahead,
            self._carried,
        )
        self._account(outcome)
        each = iter(outcome.results)
        return [list(islice(each, len(line.queries))) for line in lines]

    def _found(self, take: bool = True) -> tuple[list[Candidate], int]:
        """What is there already of the window under way, as `Candidates.find` says."""
        if not self._candidates.empty:
            self._writing.settle()
        return self._candidates.find(self._digests, take)

    def _account(self, outcome: Outcome) -> None:
        """Keep the last candidates of what was asked, and what it took."""
        self._keep_candidates()
        self._observations += outcome.observations
        if len(self._observations) > _KEPT_OBSERVATIONS:
            keep_observations(self._store, self._job.pool.costs_name, self._observations)
            self._observations = []
        for stage, spent in outcome.seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    def _check_error_rate(self, least: int) -> None:
        commit, most = self._record.commit, self._job.max_error_rate
        done = commit.answered + commit.failed
        if done >= least and commit.failed > most * done:
            self._writing.settle()
            advice = "run again without --resume" if self._job.tabled else f"symmoe batch retry {self._job.output}"
            raise ErrorLimitError(
                f"{commit.failed} of {done} lines failed, more than {100 * most:g} %",
                hint=f"mend what failed (the errors stand beside the output), then: {advice}",
            )

    def _planned(self, steps: Plan) -> None:
        if not self._for_later:
            self._progress.asks(sum(len(step.calls) for step in steps.steps))
        self._watched.planned(steps)

    def _on_candidates(self, candidates: Sequence[Candidate]) -> None:
        self._unkept += candidates
        if time.monotonic() - self._kept_at >= KEEP_SECONDS:
            self._keep_candidates()

    def _keep_candidates(self) -> None:
        """Candidates are kept before anybody else hears of them."""
        candidates = self._unkept
        if not candidates:
            return
        self._writing.settle()
        self._candidates.add(candidates, self._digests, self._for_later, self._writing.sync)
        self._unkept, self._kept_at = [], time.monotonic()
        own = [candidate for candidate in candidates if not candidate.shared]
        self._tokens += sum(candidate.completion_tokens for candidate in own)
        self._progress.hears(len(own))
        self._watched.candidates(candidates)
        self._show()

    def _loaded(self, load: Load) -> None:
        loaded = Loaded(load.expert, load.lane, load.reason)
        self._loads.append(self._ways.setdefault(loaded, loaded))
        self._status.expert, self._status.lane = load.expert, load.lane
        self._watched.loaded(load)
        self._show()

    def _show(self) -> None:
        """Tell how the job stands, once a second; not before that is committed."""
        now = time.monotonic()
        if now - self._shown_at < STATUS_SECONDS or self._writing.committing:
            return
        self._shown_at, commit, status = now, self._record.commit, self._status
        status.seconds = spent = max(now - self._began, 1e-9)
        status.done, status.failed = commit.answered + commit.failed, commit.failed
        status.share, status.left = self._progress.now(commit.lines, spent)
        status.lines_per_second = round((commit.lines - self._begun_with) / spent, 2)
        status.tokens_per_second = round(self._tokens / spent, 2)
        status.loads, status.window, status.at = len(self._loads), self._window.why, time.time()
        self._tell(status)
        write_status(self._job.files, asdict(status))


def _asked(lines: Sequence[GoodLine]) -> tuple[list[Any], list[Any]]:
    """Every query of lines, and how it is answered."""
    return [q for line in lines for q in line.queries], [line.policy for line in lines for _ in line.queries]


def _digests(lines: Sequence[GoodLine]) -> dict[str, str]:
    """The digests of the lines behind queries, by query."""
    return {query.id: line.origin.digest.hex() for line in lines for query in line.queries}


def _stat(sources: Sequence[str]) -> list[tuple[str, int, int]]:
    """What tells whether files have changed."""
    facts = [(path, path.stat()) for path in map(Path, [file.name for file in find_files(sources)]) if path.exists()]
    return [(str(path), fact.st_size, fact.st_mtime_ns) for path, fact in facts]


def _present(job: BatchJob, resume: bool, again: bool) -> tuple[str, ...]:
    """The sources; what comes through a pipe as a file that is there until the job starts over: it comes once.

    A job that is gone on with may find nothing at standard input: then what came the first time is meant.
    """
    present: list[str] = []
    for place, source in enumerate(job.sources):
        piped = job.files.folder / (PIPED if source == "-" else f"{PIPED}-{place}{''.join(Path(source).suffixes)}")
        if source != "-" and not Path(source).is_fifo():
            present.append(source)
            continue
        gone_on = resume and piped.exists()
        silent = source == "-" and (sys.stdin is None or sys.stdin.isatty())
        if not (gone_on and (again or silent)):
            fresh = piped.with_name(f"{piped.name}.part")
            with ExitStack() as opened:
                pipe = standard_input() if source == "-" else opened.enter_context(open(source, "rb"))
                shutil.copyfileobj(pipe, opened.enter_context(fresh.open("wb")))
            if fresh.stat().st_size or not gone_on:
                fresh.replace(piped)
        present.append(str(piped))
    return tuple(present)


def _make_room(job: BatchJob) -> None:
    """Tell what would keep the input from being read or the output from being written, before anything is touched."""
    files = find_files([source for source in job.sources if source != "-"])
    for file in files:
        if Path(file.name).resolve() in (path.resolve() for path in job.files.rows):
            raise JobError(
                f"{file.name}: the output or its trace would overwrite the input", hint="name another output"
            )
    for source, path in product(job.sources, job.files.rows):
        if would_find(source, path):
            raise JobError(f"{path}: would be read as an input, of {source}", hint="name an output elsewhere")
    if (ending := job.output.suffix.lower()) in _UNWRITTEN:
        raise JobError(f"{job.output}: is not written as {ending}", hint="name a .jsonl, .csv or .parquet")
    if job.output.exists() and not (job.output.is_file() or (job.output.is_dir() and job.output.suffix == ".parquet")):
        raise JobError(f"{job.output}: is a directory or a device", hint="name a file")
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        job.files.folder.mkdir(exist_ok=True)
    except OSError as error:
        raise JobError(f"{job.output.parent}: is no directory for the output ({error.strerror})") from error
