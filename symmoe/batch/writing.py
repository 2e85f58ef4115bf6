"""The rows of a job's windows: written at once, and brought to the disk and committed while the next is answered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from symmoe.batch.lines import BadLine, GoodLine, KnownLine, id_hash
from symmoe.batch.output import Detail, ErrorWriter, TraceWriter, open_output
from symmoe.batch.record import Candidates, Files, Record
from symmoe.types import Refusal, Trace

Line = GoodLine | BadLine | KnownLine
_IGNORED = 512
"""Of so many fields without effect it is counted in how many lines they stood."""


class Writing:
    """Writes the lines of one window after the other, and commits each window in a thread.

    `commit` ends a window. Before `settle`, which waits for that and raises what failed, none of the next may be
    written, and none of its candidates kept. `job` and `created` are those of `open_output`.
    """

    def __init__(
        self, files: Files, job: str, created: int, detail: Detail, record: Record, candidates: Candidates
    ) -> None:
        self._record, self._candidates, self._detail = record, candidates, detail
        self._before, commit = record.before(), record.commit
        self._thread = ThreadPoolExecutor(1, "disk")
        self._committing: Future[None] | None = None
        self._syncing: Future[None] | None = None
        self._files = ExitStack()
        self._rows = open_output(files.output, job, created, commit.output)
        self._files.callback(self._rows.close)
        self._traces = TraceWriter(files.trace, commit.trace, detail)
        self._files.callback(self._traces.close)
        self._errors = ErrorWriter(files.errors, commit.errors)
        self._files.callback(self._errors.close)

    def write(self, line: Line, results: Sequence[Trace | Refusal]) -> None:
        """Write a line's row, its traces, and its error if it failed. May raise `OSError`, as all methods."""
        commit = self._record.commit
        if isinstance(line, KnownLine):
            self._write_again(line)
            return
        self._rows.write(line, results)
        self._traces.write(line, results)
        named = line.named if isinstance(line, GoodLine) else line.id is not None
        hashed = id_hash(line.id) if named and line.id is not None else 0
        refusal = next((result for result in results if isinstance(result, Refusal)), None)
        traces_written = sum(isinstance(result, Trace) for result in results) if self._detail != "none" else 0
        answered = isinstance(line, GoodLine) and refusal is None
        self._record.add(line.origin.digest, hashed, traces_written, answered, line.number)
        if isinstance(line, GoodLine):
            for name in line.ignored:
                if name in commit.ignored or len(commit.ignored) < _IGNORED:
                    commit.ignored[name] = commit.ignored.get(name, 0) + 1
            if refusal is None:
                commit.answered += 1
                return
        self._errors.write(line, results)
        code, message = (line.code, line.message) if isinstance(line, BadLine) else _why(refusal)
        commit.fails(code, line.number, message)

    def _write_again(self, line: KnownLine) -> None:
        """Write what an earlier run wrote for a line."""
        assert line.place is not None  # noqa: S101  (those in their places are not written again)
        run, row = line.place
        text, traces = self._before[run].texts(row)
        self._rows.again(text, None if line.id_hash else line.number)
        self._traces.again(traces, None if line.id_hash else line.number)
        self._record.add(line.digest, line.id_hash, len(traces), True, line.number)
        self._record.commit.answered += 1

    def commit(self) -> None:
        """Make a window's rows readable, and have them brought to the disk and committed."""
        commit = self._record.commit
        commit.output, commit.trace, commit.errors = self._rows.flush(), self._traces.flush(), self._errors.flush()
        self._committing = self._thread.submit(self._commit, self._record.flush())

    @property
    def committing(self) -> bool:
        """Whether the last window is not committed yet."""
        return self._committing is not None and not self._committing.done()

    def settle(self) -> None:
        """Wait until the last window is committed and its candidates are gone. Raises what failed, however often."""
        if self._committing is not None:
            under_way = [each for each in (self._syncing, self._committing) if each is not None]
            wait(under_way)
            for each in under_way:
                each.result()
            self._committing = None

    def sync(self, number: int) -> None:
        """Have an open file brought to the disk, which may be closed before that is done; one after the other."""
        if self._syncing is not None:
            self._syncing.result()
        self._syncing = self._thread.submit(_sync, os.dup(number))

    def close(self) -> None:
        """Close the files, with everything that was written on the disk."""
        self._thread.shutdown()
        self._files.close()

    def _commit(self, commit: bytes) -> None:
        """Commit a window in the order that `record` promises."""
        for file in (self._rows, self._traces, self._errors):
            file.sync()
        self._record.keep(commit)
        self._candidates.clear()


def _sync(number: int) -> None:
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _why(refusal: Refusal | None) -> tuple[str, str]:
    return ("", "") if refusal is None else (refusal.code, refusal.message)
