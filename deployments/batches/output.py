"""Writing a batch's output and error files from its rows, in the order of the input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import BinaryIO

from symmoe.limits import NAMES_AT_ONCE
from symmoe.wire.lines import BadLineError

from .batch_records import BatchRecord, Outcome
from .contents import Contents
from .files import OUTPUT, FileRecord
from .input import Lines
from .progress import Progress
from .rows import unasked_row
from .segments import LostRowError, Reading, Spot

Placed = tuple[int, Spot | str]
"""A line's number, and its row or where that stands."""


class MissingRowError(Exception):
    """A line has no row: the store has forgotten it, or the disk."""


class Output:
    """Both files of a batch, whole or not at all; written again, they replace what is there."""

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

    def _placed(self, numbers: list[int], rows: list[Spot | str | None], outcome: Outcome) -> list[Placed]:
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
            answered = row.answered if isinstance(row, Spot) else _is_answer(row)
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


def _is_answer(row: str) -> bool:
    response = json.loads(row)["response"]
    return response is not None and response["status_code"] == 200


def _custom_id(lines: Lines, number: int) -> str | None:
    try:
        return str(lines.read(number)["custom_id"])
    except BadLineError as error:
        return error.custom_id
