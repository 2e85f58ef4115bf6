"""Writing a batch's results in OpenAI's batch output form, and its traces, each file whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from symmoe.batch.lines import BadLine
from symmoe.types import Refusal, Trace, to_json

MODEL = "symmoe/auto"


def answered(trace: Trace, job: str, created: int) -> dict[str, Any]:
    """The output line of an answered query."""
    given = trace.answer
    own = hashlib.sha256(f"{job}/{trace.query_id}".encode()).hexdigest()[:24]
    usage = {
        "prompt_tokens": given.prompt_tokens,
        "completion_tokens": given.completion_tokens,
        "total_tokens": given.prompt_tokens + given.completion_tokens,
    }
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": given.text},
        "finish_reason": given.finish_reason,
    }
    body = {
        "id": f"chatcmpl-{own}",
        "object": "chat.completion",
        "created": created,
        "model": MODEL,
        "choices": [choice],
        "usage": usage,
    }
    response = {"status_code": 200, "request_id": f"req_{own}", "body": body}
    return {"id": f"batch_req_{own}", "custom_id": trace.query_id, "response": response, "error": None}


def refused(line: BadLine, job: str) -> dict[str, Any]:
    """The output line of a line that could not be asked."""
    own = hashlib.sha256(f"{job}/line {line.number}".encode()).hexdigest()[:24]
    error = {"code": line.code, "message": line.message, "line": line.number}
    return {"id": f"batch_req_{own}", "custom_id": line.id, "response": None, "error": error}


def as_bad_line(refusal: Refusal, number: int) -> BadLine:
    """A query that the engine would refuse, as a bad line of the file."""
    return BadLine(number, refusal.query_id, refusal.code, f"line {number}: {refusal.message}")


def trace_line(trace: Trace) -> dict[str, Any]:
    """The trace of one query as JSON."""
    return to_json(trace)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows beside `path` and rename, so that a reader sees the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
