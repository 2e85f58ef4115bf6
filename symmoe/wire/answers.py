"""Answers, errors and the rows of a batch, in OpenAI's shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from symmoe.errors import RequestError
from symmoe.types import Generation

Count = Literal["answered", "failed"]
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # ASCII: some readers take U+2028 for the end of a line
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


def envelope(error: RequestError) -> dict[str, Any]:
    """What a client is told of an error."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens that were spent."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def choices(finished: Mapping[int, Generation]) -> list[dict[str, Any]]:
    """Finished choices, by their number."""
    return [
        {
            "index": number,
            "message": {"role": "assistant", "content": generation.text, "refusal": None},
            "logprobs": None,
            "finish_reason": generation.finish_reason,
        }
        for number, generation in sorted(finished.items())
    ]


def completion(
    ident: str, model: str, created: int, choices: Sequence[dict[str, Any]], kind: str = "chat.completion", **more: Any
) -> dict[str, Any]:
    """A whole chat completion, or another `kind` of the same shape; `created` is in seconds since 1970."""
    shared = {"id": f"chatcmpl-{ident}", "object": kind, "created": created, "model": model}
    return {**shared, "choices": list(choices), **more}


def line_id(batch: str, number: int) -> str:
    """The name of a line's request: the same whenever the batch is resumed."""
    return hashlib.blake2b(f"{batch}/{number}".encode(), digest_size=12).hexdigest()


def response_row(
    batch: str, number: int, custom_id: str, status: int, body: Mapping[str, Any]
) -> tuple[dict[str, Any], Count]:
    """The row of a line that has its response, and what it counts as."""
    own = line_id(batch, number)
    response = {"status_code": status, "request_id": f"req_{own}", "body": body}
    return _row(own, custom_id, response, None), "answered" if status == 200 else "failed"


def bad_row(batch: str, number: int, custom_id: str | None, code: str, message: str) -> dict[str, Any]:
    """The row of a line that could not be asked."""
    return _row(line_id(batch, number), custom_id, None, {"code": code, "message": message, "line": number})


def row_text(row: Mapping[str, Any]) -> str:
    """A row as a line, without its end."""
    return _ENCODER.encode(row)


def row_parts(row: Mapping[str, Any]) -> list[str]:
    """The same in many parts, for a heavy row: between them other threads get on, which they do not while it is encoded
    as a whole, and faster.
    """
    return list(_ENCODER.iterencode(row))


def _row(
    own: str, custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    return {"id": f"batch_req_{own}", "custom_id": custom_id, "response": response, "error": error}
