"""A batch's rows and traces: appended as answers come, readable meanwhile, and resumed from a mark after a kill.

Requests are answered in their API's format. Any other row keeps its own columns and gets the answer beside them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import SchemaSerializer
from pydantic_core import to_json as pydantic_to_json

from symmoe.batch.lines import COMPLETIONS, MESSAGES, RESPONSES, BadLine, GoodLine
from symmoe.errors import JobError, RequestError
from symmoe.rows.reading import without_nan
from symmoe.types import Refusal, Trace, to_json
from symmoe.wire.answers import (
    AnswerFacts,
    Writer,
    bad_row,
    choices,
    completion,
    envelope,
    line_id,
    response_row,
    row_text,
)
from symmoe.wire.answers import usage as told_usage
from symmoe.wire.completions import CompletionRequest, CompletionWriter
from symmoe.wire.messages import MessageWriter
from symmoe.wire.messages import envelope as message_envelope
from symmoe.wire.responses import ResponseRequest, ResponseWriter

Results = Sequence[Trace | Refusal]
Detail = Literal["full", "brief", "none"]
OWN = "symmoe_"
"""What the names of our columns begin with."""
COLUMNS: dict[str, type] = {
    "id": str,
    "expert": str,
    "experts": str,
    "skill": str,
    "share": float,
    "prompt_tokens": int,
    "completion_tokens": int,
    "finish_reason": str,
    "error_code": str,
    "error": str,
    "line": int,
}
_REST = f"{OWN}other"
_INPUT = f"{OWN}input"
_BUFFER = 1 << 18
"""Bytes of a file that are written at once: a trace alone is larger than what is buffered by default."""
_EXACT = 1 << 53
"""A float holds every whole number up to this."""
_QUERY = re.compile(r'("query_id": ?")\d+')
"""In a trace, the number of the line that asked. In what was said there is a backslash before each quote."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How much of a file is safely written: rows, bytes (or parts), and the file's columns."""

    rows: int = 0
    bytes: int = 0
    columns: tuple[tuple[str, str], ...] = ()


START = Mark()


class RowWriter(Protocol):
    """Writes one row for each line, in the order given. All methods may raise `OSError`."""

    def again(self, text: str, number: int | None) -> None:
        """Write a row that an earlier run wrote. `number` is its line's current number if that is its id, else None."""
        ...

    def write(self, line: GoodLine | BadLine, results: Results) -> None:
        """Write the outcome of a line: a result for each of its queries or turns, none for a bad line."""
        ...

    def flush(self) -> Mark:
        """Make everything written readable. Returns the mark at which a writer opened later continues."""
        ...

    def sync(self) -> None:
        """Make durable what was flushed. Nothing is written meanwhile, but another thread may do this."""
        ...

    def close(self) -> None:
        """Flush, make all durable, and close the file."""
        ...


def open_output(path: Path, job: str, created: int, at: Mark = START) -> RowWriter:
    """The writer for a file by its name: CSV, Parquet, otherwise JSON lines. `created` is in seconds since 1970.

    Raises `OSError`, and `JobError` for a file that is shorter than `at`.
    """
    if path.suffix.lower() == ".parquet":
        return ParquetWriter(path, at)
    if path.suffix.lower() == ".csv":
        return CsvWriter(path, at)
    return JsonlWriter(path, job, created, at)


def output_row(line: GoodLine | BadLine, results: Results, job: str, created: int) -> dict[str, Any]:
    """The row of any line: in its API's format, or its own columns with the answer."""
    if not line.door:
        return plain_row(line, results)
    return refused_row(line, job) if isinstance(line, BadLine) else result_row(line, results, job, created)


def result_row(line: GoodLine, results: Results, job: str, created: int) -> dict[str, Any]:
    """The row of a request: its choices, or why one of them could not be answered."""
    refusal = _refusal_of(results)
    if refusal is not None:
        return _refused(line, RequestError(refusal.message, code=refusal.code, status=refusal.status), job)
    traces = [result for result in results if isinstance(result, Trace)]
    finished = {number: trace.given for number, trace in enumerate(traces)}
    name = f"id:{line.id}"  # and not its number: the row stays as it is where lines are put in another order
    spent, ident = _spent(traces), line_id(job, name)
    if line.door == MESSAGES:
        message = MessageWriter(ident, line.model).whole(finished, spent)
        return _of_anthropic(line.id, {"type": "succeeded", "message": message})
    writer = _writer(line, ident)
    if writer is None:
        body = completion(ident, line.model, created, choices(ident, finished), usage=told_usage(spent))
    else:
        body = writer.whole(finished, spent)
        body["created_at" if line.door == RESPONSES else "created"] = created
    return response_row(job, name, line.id, 200, body)[0]


def _writer(line: GoodLine, ident: str) -> Writer | None:
    """What writes an answer as its door has it; None for chat."""
    if line.door == COMPLETIONS:
        request = CompletionRequest.model_validate(line.origin.row["body"])
        return CompletionWriter(ident, line.model, echoed=request.prompts if request.echo else ())
    if line.door == RESPONSES:
        return ResponseWriter(ident, ResponseRequest.model_validate(line.origin.row["body"]))
    return None


def refused_row(line: BadLine, job: str) -> dict[str, Any]:
    """The row of a line that could not be asked: a response if its request is at fault, otherwise an error."""
    if line.door != MESSAGES and (line.status is None or line.id is None):
        return bad_row(job, line.number, line.id, line.code, line.message)
    error = RequestError(line.message, code=line.code, param=line.param, status=line.status or 400)
    return _refused(line, error, job)


def _refused(line: GoodLine | BadLine, error: RequestError, job: str) -> dict[str, Any]:
    if line.door == MESSAGES:
        return _of_anthropic(line.id, {"type": "errored", "error": message_envelope(error)})
    return response_row(job, line.number, line.id or "", error.status, envelope(error))[0]


def _refusal_of(results: Results) -> Refusal | None:
    """The first of a line's refusals; None where all was answered."""
    return next((result for result in results if isinstance(result, Refusal)), None)


def _of_anthropic(custom_id: str | None, result: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "result": result}


def _spent(traces: Iterable[Trace]) -> AnswerFacts:
    generations = [trace.given for trace in traces]
    return AnswerFacts(
        sum(generation.prompt_tokens for generation in generations),
        sum(generation.completion_tokens for generation in generations),
        reasoning_tokens=sum(generation.reasoning_tokens for generation in generations),
    )


def plain_row(line: GoodLine | BadLine, results: Results) -> dict[str, Any]:
    """A row's own columns, then the answer and the columns about it.

    The answer is called `symmoe_answer` where the row has an `answer` of its own.
    """
    original, answer, added = columns_of(line, results)
    return {**original, f"{OWN}answer" if "answer" in original else "answer": answer, **added}


def columns_of(line: GoodLine | BadLine, results: Results) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """A row's own columns, the answer, and our columns. Several choices or turns give a list of answers."""
    row = line.origin.row
    original = row if isinstance(row, dict) else {} if row is None else {_INPUT: row}
    if any(name.startswith(OWN) for name in original):  # an output that is asked again
        original = {name: value for name, value in original.items() if not name.startswith(OWN) or name == _INPUT}
    traces = [result for result in results if isinstance(result, Trace)]
    refusal = _refusal_of(results)
    bad = line if isinstance(line, BadLine) else None
    first, texts = traces[0] if traces else None, [trace.answer.text for trace in traces]
    added = {
        "id": line.id,
        "expert": first and first.answer.expert,
        "experts": first and ", ".join(dict.fromkeys([candidate.expert for candidate in first.candidates])),
        "skill": first.skills[0].skill if first and first.skills else None,
        "share": first.answer.votes[0].share if first and first.answer.votes else None,
        "prompt_tokens": sum(trace.answer.prompt_tokens for trace in traces),
        "completion_tokens": sum(trace.answer.completion_tokens for trace in traces),
        "finish_reason": first and first.answer.finish_reason,
        "error_code": bad.code if bad else refusal and refusal.code,
        "error": bad.message if bad else refusal and refusal.message,
        "line": bad and bad.number,
    }
    answer = None if refusal or not texts else texts if len(results) > 1 else texts[0]
    return original, answer, {OWN + name: value for name, value in added.items()}


def trace_text(trace: Trace, detail: Detail = "full") -> str:
    """The trace of one query as JSON, in ASCII: some readers take U+2028 for the end of a line.

    A brief one leaves out the candidates' texts, except the answer.
    """
    if detail == "brief":
        return row_text(_brief(trace))
    text = _traces().to_json([trace], warnings=False)  # a tenth of the time that `to_json` takes
    return text[1:-1].decode() if text.isascii() else row_text(to_json(trace))


@cache
def _traces() -> SchemaSerializer:
    """Writes lists of traces, knowing what they consist of; infinite log-probabilities as `json` does."""
    return TypeAdapter(list[Trace], config=ConfigDict(ser_json_inf_nan="constants")).serializer


def _brief(trace: Trace) -> dict[str, Any]:
    answer = trace.answer
    return {
        "query_id": trace.query_id,
        "skills": [match.skill for match in trace.skills],
        "way": trace.way,
        "recruited": list(trace.recruited),
        "expert": answer.expert,
        "origin": answer.origin,
        "votes": [[vote.answer[:200], round(vote.share, 4), list(vote.experts)] for vote in answer.votes],
    }


class _Appended:
    """A file of lines that grows. What stands in it behind `at`, whole or torn, is cut off as it is opened."""

    def __init__(self, path: Path, at: Mark) -> None:
        self._file = path.open("r+b" if at.bytes else "wb", buffering=_BUFFER)
        self._rows, self._synced = at.rows, -1
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
        """Everything in the file."""
        self._file.flush()
        return Mark(self._rows, self._file.tell())

    def sync(self) -> None:
        """Everything that is in the file on the disk."""
        size = self._file.tell()
        if size != self._synced:
            os.fsync(self._file.fileno())
            self._synced = size

    def close(self) -> None:
        """Everything on the disk, and over."""
        with self._file:
            self.flush()
            self.sync()


class JsonlWriter(_Appended):
    """Rows as JSON lines. `job` and `created` name the requests in OpenAI's form."""

    def __init__(self, path: Path, job: str, created: int, at: Mark = START) -> None:
        super().__init__(path, at)
        self._job, self._created = job, created

    def write(self, line: GoodLine | BadLine, results: Results) -> None:
        """Write a line's row."""
        self.add(_text(output_row(line, results, self._job, self._created)))

    def again(self, text: str, number: int | None) -> None:
        """Write a row once more."""
        if number is not None and (row := json.loads(text)).get(f"{OWN}id") is not None:
            text = _text({**row, f"{OWN}id": str(number)})
        self.add(text)


class TraceWriter(_Appended):
    """The traces of each line's answered queries as JSON lines, counted by line. Without traces there is no file."""

    def __init__(self, path: Path, at: Mark = START, detail: Detail = "full") -> None:
        self._detail = detail
        if detail != "none":
            super().__init__(path, at)

    def write(self, line: GoodLine | BadLine, results: Results) -> None:
        """Write a line's traces."""
        traces = (result for result in results if isinstance(result, Trace))
        self.add(*(trace_text(trace, self._detail) for trace in traces))

    def again(self, texts: Sequence[str], number: int | None) -> None:
        """Write a row's traces that an earlier run wrote; `number` is as for the row."""
        self.add(*(texts if number is None else (_QUERY.sub(rf"\g<1>{number}", text) for text in texts)))

    def add(self, *texts: str) -> None:
        """Add the traces of one row."""
        if self._detail != "none":
            super().add(*texts)

    def flush(self) -> Mark:
        """Make everything written readable."""
        return super().flush() if self._detail != "none" else START

    def sync(self) -> None:
        """Make durable what was flushed."""
        if self._detail != "none":
            super().sync()

    def close(self) -> None:
        """Flush, make all durable, and close the file."""
        if self._detail != "none":
            super().close()


class ErrorWriter(_Appended):
    """Failed lines, each as it came, with its place, error and experts tried. Without any there is no file."""

    def __init__(self, path: Path, at: Mark = START) -> None:
        self._path, self._at, self._begun = path, at, bool(at.bytes)
        if self._begun:
            super().__init__(path, at)

    def write(self, line: GoodLine | BadLine, results: Results) -> None:
        """Write a failed line."""
        if not self._begun:
            self._begun = True
            super().__init__(self._path, self._at)
        self.add(_text(error_row(line, results)))

    def flush(self) -> Mark:
        """Make everything written readable."""
        return super().flush() if self._begun else self._at

    def sync(self) -> None:
        """Make durable what was flushed."""
        if self._begun:
            super().sync()

    def close(self) -> None:
        """Flush, make all durable, and close the file."""
        if self._begun:
            super().close()


def error_row(line: GoodLine | BadLine, results: Results) -> dict[str, Any]:
    """The row about a failed line. `attempts` counts the experts that were asked without success."""
    refusal = _refusal_of(results)
    code, message = (line.code, line.message) if isinstance(line, BadLine) else ("", "")
    failed = {} if refusal is None else dict(refusal.failed)
    return {
        "row": line.origin.row,
        "source": line.origin.source,
        "line": line.origin.number,
        "custom_id": line.id,
        "code": code if refusal is None else refusal.code,
        "message": message if refusal is None else refusal.message,
        "attempts": len(failed),
        "experts": failed,
    }


class _Tabled(ABC):
    """Rows under one set of columns, which the first rows decide; what later ones have besides is in `symmoe_other`.

    Rows wait for the next flush, or until there are many.
    """

    _many = 1000

    def __init__(self, at: Mark) -> None:
        self._columns = dict(at.columns)
        self._waiting: list[tuple[dict[str, Any], Any, dict[str, Any]]] = []
        self._rows = at.rows

    def write(self, line: GoodLine | BadLine, results: Results) -> None:
        """Take a line's row; a request's own columns are those of its line."""
        self._rows += 1
        self._waiting.append(columns_of(line, results))
        if len(self._waiting) >= self._many:
            self._pour()

    def again(self, text: str, number: int | None) -> None:
        """Of a table no row is taken over: the job is refused before it comes to this."""
        raise TypeError("rows of a table cannot be taken over")

    @abstractmethod
    def _pour(self) -> None:
        """Write the rows that wait."""

    def _poured(self) -> list[dict[str, Any]]:
        """The rows that wait, under the columns that there are."""
        if not self._columns:
            names = dict.fromkeys(name for original, _, _ in self._waiting for name in original)
            kinds = {name: _kind(original.get(name) for original, _, _ in self._waiting) for name in names}
            own_columns = {OWN + name: kind.__name__ for name, kind in COLUMNS.items()}
            self._columns = {
                **kinds,
                f"{OWN}answer" if "answer" in names else "answer": "str",
                **own_columns,
                _REST: "str",
            }
        rows = [self._fitted(*each) for each in self._waiting]
        self._waiting.clear()
        return rows

    def _fitted(self, original: Mapping[str, Any], answer: Any, added: Mapping[str, Any]) -> dict[str, Any]:
        answer_column = f"{OWN}answer" if f"{OWN}answer" in self._columns else "answer"
        fitted: dict[str, Any] = {
            **dict.fromkeys(self._columns),
            **added,
            answer_column: None if answer is None else _cell(answer),
        }
        rest: dict[str, Any] = {}
        for name, value in original.items():
            kind = None if name == answer_column else self._columns.get(name)
            if kind == "str" and value is not None:
                fitted[name] = _cell(value)
            elif kind == _type(value) or (kind == "float" and _type(value) == "int" and abs(value) <= _EXACT):
                fitted[name] = value
            elif value is not None:
                rest[name] = value
        return {**fitted, _REST: _text(rest) if rest else None}


class CsvWriter(_Tabled):
    """Rows as CSV with a header: lists and objects as JSON, null as an empty field."""

    def __init__(self, path: Path, at: Mark = START) -> None:
        super().__init__(at)
        self._out, self._headed = _Appended(path, at), bool(at.bytes)

    def _pour(self) -> None:
        text = io.StringIO()
        plain = csv.writer(text, lineterminator="\n")
        quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        rows = [["" if value is None else value for value in row.values()] for row in self._poured()]
        for cells in rows if self._headed else [[*self._columns], *rows]:
            returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)  # which ends a row for readers
            (quoted if returns else plain).writerow(cells)
        self._headed = True
        self._out.add(text.getvalue().removesuffix("\n"))

    def flush(self) -> Mark:
        """Make everything written readable."""
        if self._waiting or not self._headed:
            self._pour()
        return Mark(self._rows, self._out.flush().bytes, tuple(self._columns.items()))

    def sync(self) -> None:
        """Make durable what was flushed."""
        self._out.sync()

    def close(self) -> None:
        """Flush, make all durable, and close the file."""
        self.flush()
        self._out.close()


class ParquetWriter(_Tabled):
    """A folder of Parquet files with equal columns. A part appears when it is complete, and each flush ends one."""

    _many = 10_000

    def __init__(self, path: Path, at: Mark = START) -> None:
        super().__init__(at)
        self._folder, self._parts = path, at.bytes
        path.mkdir(parents=True, exist_ok=True)
        existing = sorted(path.glob("part-*.parquet"))
        if len(existing) < self._parts:
            raise JobError(f"{path}: has fewer parts than it had", hint="run without --resume to start over")
        for part in [*existing[self._parts :], *path.glob(".part-*")]:
            part.unlink()

    def _pour(self) -> None:
        import pyarrow
        from pyarrow import parquet

        rows = self._poured()
        types = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
        schema = pyarrow.schema([(name, types[kind]) for name, kind in self._columns.items()])
        table = pyarrow.Table.from_pylist(rows, schema)
        name = f"part-{self._parts:06d}.parquet"
        partial = self._folder / f".{name}"
        with partial.open("wb") as file:
            parquet.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._folder / name)
        self._parts += 1

    def flush(self) -> Mark:
        """Write the pending rows as a part."""
        if self._waiting or not self._parts:
            self._pour()
        return Mark(self._rows, self._parts, tuple(self._columns.items()))

    def sync(self) -> None:
        """Does nothing: parts are on the disk before they appear."""

    def close(self) -> None:
        """Write the pending rows as a part."""
        self.flush()


def _kind(values: Iterable[Any]) -> str:
    """The type that all values of a column have: text where they have several, or one that tables do not have."""
    kinds = {_type(value) for value in values if value is not None}
    if kinds == {"int", "float"}:
        return "float"
    only = kinds.pop() if len(kinds) == 1 else "str"
    return only if only in ("int", "float", "bool") else "str"


def _type(value: Any) -> str:
    return "large" if type(value) is int and not -(2**63) <= value < 2**63 else type(value).__name__


def _cell(value: Any) -> str:
    nested = isinstance(value, bool | int | float | list | tuple | dict)
    return json.dumps(value, ensure_ascii=False, default=_other) if nested else _other(value)


def _other(value: Any) -> str:
    """A text; or what Parquet has and JSON has not: times, decimals, bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


_PLAIN = frozenset((str, int, float, bool, type(None)))
_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_other, allow_nan=False)


def _text(row: Mapping[str, Any]) -> str:
    """A row as JSON, in ASCII, with null for what is no number."""
    if _PLAIN.issuperset(map(type, row.values())):
        with suppress(ValueError):  # half of a surrogate pair, which the encoder below writes as it came
            text = pydantic_to_json(row, inf_nan_mode="null")  # in less than half the time
            if text.isascii():
                return text.decode()
    try:
        return _ENCODER.encode(row)
    except ValueError:  # 1e999 is read as infinity, which JSON cannot say
        return _ENCODER.encode(without_nan(row))
