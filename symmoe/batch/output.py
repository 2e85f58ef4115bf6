"""Writing a batch's results in OpenAI's batch output form, and its traces, each file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from symmoe.batch.lines import BadLine, GoodLine
from symmoe.errors import RequestError
from symmoe.types import Refusal, Trace, to_json
from symmoe.wire.answers import Told, bad_row, choices, completion, envelope, line_id, response_row, row_text, usage


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
    ident = line_id(job, line.number)
    body = completion(ident, line.model, created, choices(ident, finished), usage=usage(spent))
    return response_row(job, line.number, line.id, 200, body)[0]


def refused_row(line: BadLine, job: str) -> dict[str, Any]:
    """The row of a line that could not be asked: a response where its request is at fault, else an error."""
    if line.status is None or line.id is None:
        return bad_row(job, line.number, line.id, line.code, line.message)
    error = RequestError(line.message, code=line.code, param=line.param, status=line.status)
    return response_row(job, line.number, line.id, line.status, envelope(error))[0]


def trace_line(trace: Trace) -> dict[str, Any]:
    """The trace of one query as JSON."""
    return to_json(trace)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows beside `path` and rename, so that a reader sees the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(row_text(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
