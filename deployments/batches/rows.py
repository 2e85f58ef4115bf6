"""The rows of a batch's output and error files, in OpenAI's shape."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from symmoe.limits import MOST_ROW

from ..telemetry.note import Note
from .records import Outcome

Count = Literal["answered", "failed"]
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # ASCII: some readers take U+2028 for the end of a line
_UNASKED = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was answered"),
    "expired": ("batch_expired", "the batch's window ended before this request was answered"),
    "failed": ("file_quota_exceeded", "the files of the batch's key left no room for an answer to this request"),
}


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a line: a response's status and body.

    `again` says that it may be asked again, `lost` that it may itself be what ended its expert's engine; `note` is what
    is told of it once it is not asked again.
    """

    status: int
    body: dict[str, Any]
    again: bool = False
    lost: bool = False
    retry_after: float = 1.0
    note: Note | None = None


class Asking(Protocol):
    """Answers one line of a batch."""

    async def __call__(self, body: dict[str, Any], ident: str, share: str, owner: str, seconds: float) -> Answered:
        """What becomes of a request body within so many seconds.

        Its tokens count against the limits of `owner`, the id of a key; lines of one `share` take turns with other
        shares.
        """
        ...


def line_id(batch: str, number: int) -> str:
    """The name of a line's request: the same whenever the batch is resumed."""
    return hashlib.blake2b(f"{batch}/{number}".encode(), digest_size=12).hexdigest()


def response_row(
    batch: str, number: int, custom_id: str, answered: Answered, heavy: bool = False
) -> tuple[list[str], Count]:
    """The row of a line that has its response, in parts, and what it counts as.

    A `heavy` one is put together part by part: other threads get on between them, which they do not while it is encoded
    as a whole, and faster.
    """
    own = line_id(batch, number)
    row = _row(
        own, custom_id, {"status_code": answered.status, "request_id": f"req_{own}", "body": answered.body}, None
    )
    parts = list(_ENCODER.iterencode(row)) if heavy else [_ENCODER.encode(row)]
    if sum(map(len, parts)) > MOST_ROW:
        message = f"the answer, with all its choices, is longer than {MOST_ROW} bytes"
        return [bad_row(batch, number, custom_id, "answer_too_long", message)], "failed"
    return parts, "answered" if answered.status == 200 else "failed"


def bad_row(batch: str, number: int, custom_id: str | None, code: str, message: str) -> str:
    """The row of a line that could not be asked."""
    error = {"code": code, "message": message, "line": number}
    return _ENCODER.encode(_row(line_id(batch, number), custom_id, None, error))


def unasked_row(batch: str, number: int, custom_id: str | None, outcome: Outcome) -> str:
    """The row of a line for which the end of its batch came first."""
    code, message = _UNASKED[outcome]
    return bad_row(batch, number, custom_id, code, message)


def _row(
    own: str, custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    return {"id": f"batch_req_{own}", "custom_id": custom_id, "response": response, "error": error}
