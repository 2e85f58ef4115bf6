"""A batch's output and error files: the rows of its lines, in OpenAI's shape and in the order of the input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from symmoe.limits import MOST_ROW, NAMES_AT_ONCE
from symmoe.wire.answers import Count, bad_row, response_row, row_parts, row_text
from symmoe.wire.lines import BadLineError

from ..telemetry.note import Note
from .batches import BatchRecord, Outcome
from .files import OUTPUT, Contents, FileRecord
from .input import Lines
from .progress import Progress
from .segments import LostRowError, Reading, Spot

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


Placed = tuple[int, Spot | str]
"""A line's number, and where its row stands, or the row of a line that was not asked."""


class MissingRowError(Exception):
    """A line has no row: the store has forgotten it, or the disk."""


class Output:
    """Writes the output and error files of a batch: both whole or neither. Written again, they replace the old."""

    def __init__(self, batch: BatchRecord, lines: Lines, progress: Progress, contents: Contents) -> None:
        self._batch, self._lines, self._progress, self._contents = batch, lines, progress, contents
        self.answered = self.failed = 0

    async def write(self, outcome: Outcome, now: int) -> list[FileRecord]:
        """Write both; their records, without that of a file that would be empty. Raises `MissingRowError`."""
        self.answered = self.failed = 0
        batch, idents = self._batch, (self._batch.output, self._batch.error)
        async with AsyncExitStack() as stack:
            files = [await stack.enter_async_context(self._contents.writing(ident)) for ident in idents]
            reading = stack.enter_context(self._progress.segments.reading(batch.id))
            lost = False
            async for chunk in self._chunks(outcome):
                gone = await asyncio.to_thread(self._write, reading, chunk, *files)
                if gone:
                    await self._progress.lose(batch.id, gone)
                    lost = True
            if lost:
                raise MissingRowError
            sizes = dict(zip(idents, (file.tell() for file in files), strict=True))
        names = {batch.output: f"{batch.id}_output.jsonl", batch.error: f"{batch.id}_error.jsonl"}
        for ident in [ident for ident, size in sizes.items() if not size]:
            await self._contents.delete(ident)
        expires = None if batch.keep is None else now + batch.keep
        return [
            FileRecord(ident, batch.owner, names[ident], size, OUTPUT, now, expires)
            for ident, size in sizes.items()
            if size
        ]

    async def _chunks(self, outcome: Outcome) -> AsyncIterator[list[Placed]]:
        """Lines and where their rows stand, some at a time."""
        numbers = self._lines.numbers
        for start in range(0, len(numbers), NAMES_AT_ONCE):
            part = list(numbers[start : start + NAMES_AT_ONCE])
            rows = await self._progress.rows(self._batch.id, part)
            if outcome == "completed" and None in rows:
                raise MissingRowError
            yield await asyncio.to_thread(self._placed, part, rows, outcome)

    def _placed(self, numbers: list[int], rows: list[Spot | None], outcome: Outcome) -> list[Placed]:
        return [
            (number, unasked_row(self._batch.id, number, _custom_id(self._lines, number), outcome))
            if row is None
            else (number, row)
            for number, row in zip(numbers, rows, strict=True)
        ]

    def _write(self, reading: Reading, chunk: list[Placed], output: BinaryIO, error: BinaryIO) -> list[int]:
        """Write rows to the files that they belong to; the numbers of lines whose rows are lost."""
        lost = list[int]()
        for number, row in chunk:
            answered = isinstance(row, Spot) and row.answered
            file = output if answered else error
            try:
                if isinstance(row, Spot):
                    reading.copy(row, file)
                else:
                    file.write(row.encode() + b"\n")
            except LostRowError:
                lost.append(number)
            self.answered += answered
            self.failed += not answered
        return lost


def _custom_id(lines: Lines, number: int) -> str | None:
    try:
        return str(lines.read(number)["custom_id"])
    except BadLineError as error:
        return error.custom_id
