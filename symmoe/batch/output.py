"""Writing a batch's results and its traces: appended as they come, and gone on with at a known row after a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from symmoe.batch.lines import BadLine, GoodLine
from symmoe.errors import JobError, RequestError
from symmoe.types import Refusal, Trace, to_json
from symmoe.wire.answers import Told, bad_row, choices, completion, envelope, line_id, response_row, row_text, usage


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a file was written for good: so many rows, in so many bytes."""

    rows: int = 0
    bytes: int = 0


START = Mark()


class RowWriter(Protocol):
    """Writes one row for each line, in the order in which they are given. All may raise `OSError`."""

    def add(self, *texts: str) -> None:
        """Add one row that an earlier run has written."""
        ...

    def write(self, line: GoodLine | BadLine, results: Sequence[Trace | Refusal]) -> None:
        """Write what became of a line: a result for each of its queries, none for a bad line."""
        ...

    def flush(self) -> Mark:
        """Have all that was written on the disk and readable; where a writer that is opened anew goes on."""
        ...

    def close(self) -> None:
        """Flush, and let go of the file."""
        ...


class _Appended:
    """A file of lines that grows. What stands in it behind `at`, whole or torn, is cut off as it is opened."""

    def __init__(self, path: Path, at: Mark) -> None:
        self._file = path.open("r+b" if at.bytes else "wb")
        self._rows = at.rows
        if self._file.seek(0, os.SEEK_END) < at.bytes:
            self._file.close()
            raise JobError(f"{path}: is shorter than it was", hint="run without --resume to start over")
        self._file.seek(at.bytes)
        self._file.truncate()

    def add(self, *texts: str) -> None:
        """Add one row of so many lines."""
        self._rows += 1
        for text in texts:
            self._file.write(text.encode() + b"\n")

    def flush(self) -> Mark:
        """Everything on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return Mark(self._rows, self._file.tell())

    def close(self) -> None:
        """The same, and over."""
        with self._file:
            self.flush()


class JsonlWriter(_Appended):
    """Rows as JSON lines. `job` and `created` (seconds since 1970) name the requests in OpenAI's form."""

    def __init__(self, path: Path, job: str, created: int, at: Mark = START) -> None:
        super().__init__(path, at)
        self._job, self._created = job, created

    def write(self, line: GoodLine | BadLine, results: Sequence[Trace | Refusal]) -> None:
        """Write a line's row."""
        if isinstance(line, BadLine):
            self.add(row_text(refused_row(line, self._job)))
        else:
            self.add(row_text(result_row(line, results, self._job, self._created)))


class TraceWriter(_Appended):
    """The traces of a line's answered queries as JSON lines; a line without one counts as a row, too."""

    def __init__(self, path: Path, at: Mark = START) -> None:
        super().__init__(path, at)

    def write(self, line: GoodLine | BadLine, results: Sequence[Trace | Refusal]) -> None:
        """Write a line's traces."""
        self.add(*(row_text(trace_line(result)) for result in results if isinstance(result, Trace)))


class ErrorWriter(_Appended):
    """Lines that failed, each as it came, with its place, what is wrong, and who was tried. None, and no file."""

    def __init__(self, path: Path, at: Mark = START) -> None:
        self._path, self._at, self._begun = path, at, bool(at.bytes)
        if self._begun:
            super().__init__(path, at)

    def write(self, line: GoodLine | BadLine, results: Sequence[Trace | Refusal]) -> None:
        """Write a failed line."""
        if not self._begun:
            self._begun = True
            super().__init__(self._path, self._at)
        self.add(row_text(error_row(line, results)))

    def flush(self) -> Mark:
        """Everything on the disk."""
        return super().flush() if self._begun else self._at

    def close(self) -> None:
        """The same, and over."""
        if self._begun:
            super().close()


def error_row(line: GoodLine | BadLine, results: Sequence[Trace | Refusal]) -> dict[str, Any]:
    """What there is to know of a line that failed. `attempts` counts the experts that were asked in vain."""
    refusal = next((result for result in results if isinstance(result, Refusal)), None)
    code, message = (line.code, line.message) if isinstance(line, BadLine) else ("", "")
    failed = {} if refusal is None else dict(refusal.failed)
    return {
        "row": line.came.row,
        "source": line.came.source,
        "line": line.came.number,
        "custom_id": line.id,
        "code": code if refusal is None else refusal.code,
        "message": message if refusal is None else refusal.message,
        "attempts": len(failed),
        "experts": failed,
    }


def open_output(path: Path, job: str, created: int, at: Mark = START) -> RowWriter:
    """The writer for a file of that name. Raises `OSError`, and `JobError` for a file shorter than `at`."""
    return JsonlWriter(path, job, created, at)


def result_row(line: GoodLine, results: Sequence[Trace | Refusal], job: str, created: int) -> dict[str, Any]:
    """The row of a line that was asked: its choices, or why there is one that could not be answered."""
    refusal = next((result for result in results if isinstance(result, Refusal)), None)
    if refusal is not None:
        error = RequestError(refusal.message, code=refusal.code, status=refusal.status)
        return response_row(job, line.number, line.id, error.status, envelope(error))[0]
    traces = [result for result in results if isinstance(result, Trace)]
    finished = {number: trace.given for number, trace in enumerate(traces)}
    given = finished.values()
    spent = Told(
        sum(g.prompt_tokens for g in given),
        sum(g.completion_tokens for g in given),
        reasoning_tokens=sum(g.reasoning_tokens for g in given),
    )
    name = f"id:{line.id}"  # and not its number: the row stays as it is where lines are put in another order
    ident = line_id(job, name)
    body = completion(ident, line.model, created, choices(ident, finished), usage=usage(spent))
    return response_row(job, name, line.id, 200, body)[0]


def refused_row(line: BadLine, job: str) -> dict[str, Any]:
    """The row of a line that could not be asked: a response where its request is at fault, else an error."""
    if line.status is None or line.id is None:
        return bad_row(job, line.number, line.id, line.code, line.message)
    error = RequestError(line.message, code=line.code, param=line.param, status=line.status)
    return response_row(job, line.number, line.id, line.status, envelope(error))[0]


def trace_line(trace: Trace) -> dict[str, Any]:
    """The trace of one query as JSON."""
    return to_json(trace)
