"""The rows of a batch's output and error files, in OpenAI's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from symmoe.limits import MOST_ROW
from symmoe.wire.answers import Count, bad_row, response_row, row_parts, row_text

from ..telemetry.note import Note
from .batch_records import Outcome

_UNASKED = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was answered"),
    "expired": ("batch_expired", "the batch's window ended before this request was answered"),
    "failed": ("file_quota_exceeded", "the files of the batch's key left no room for an answer to this request"),
}


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a line: a response's status and body.

    `again` says that it may be asked again, `lost` that it may itself be the cause: of its engine's end, or of answers
    with nothing in them; `note` is what is told of it once it is not asked again.
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


def response_line(
    batch: str, number: int, custom_id: str, answered: Answered, heavy: bool = False
) -> tuple[list[str], Count]:
    """The row of a line that has its response, in parts, and what it counts as. See `row_parts` for a `heavy` one."""
    row, count = response_row(batch, number, custom_id, answered.status, answered.body)
    parts = row_parts(row) if heavy else [row_text(row)]
    if sum(map(len, parts)) > MOST_ROW:
        message = f"the answer, with all its choices, is longer than {MOST_ROW} bytes"
        return [row_text(bad_row(batch, number, custom_id, "answer_too_long", message))], "failed"
    return parts, count


def unasked_row(batch: str, number: int, custom_id: str | None, outcome: Outcome) -> str:
    """The row of a line for which the end of its batch came first."""
    code, message = _UNASKED[outcome]
    return row_text(bad_row(batch, number, custom_id, code, message))
