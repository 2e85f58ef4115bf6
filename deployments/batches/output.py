"""Writing a batch's output and error files from the rows in the store, in the order of the input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import BinaryIO

from symmoe.wire.lines import BadLineError

from .contents import Contents
from .files import OUTPUT, FileRecord
from .input import Lines
from .progress import Progress
from .records import BatchRecord, Outcome
from .rows import unasked_row

_CHUNK = 256


class MissingRowError(Exception):
    """A line of a completed batch has no row: the store has forgotten it."""


class Output:
    """Both files of a batch, whole or not at all; written again, they replace what is there."""

    def __init__(self, batch: BatchRecord, lines: Lines, progress: Progress, contents: Contents) -> None:
        self._batch, self._lines, self._progress, self._contents = batch, lines, progress, contents
        self.answered = self.failed = 0

    async def write(self, outcome: Outcome, now: int) -> list[FileRecord]:
        """Write both; their records, without that of a file that would be empty. Raises `MissingRowError`."""
        self.answered = self.failed = 0
        batch, sizes = self._batch, {self._batch.output: 0, self._batch.error: 0}
        async with AsyncExitStack() as stack:
            opened = {ident: await stack.enter_async_context(self._contents.writing(ident)) for ident in sizes}
            async for chunk in self._chunks(outcome):
                for ident, count in (await asyncio.to_thread(self._write, opened, chunk)).items():
                    sizes[ident] += count
        names = {batch.output: f"{batch.id}_output.jsonl", batch.error: f"{batch.id}_error.jsonl"}
        for ident in [ident for ident, size in sizes.items() if not size]:
            await self._contents.delete(ident)
        expires = None if batch.keep is None else now + batch.keep
        return [
            FileRecord(ident, batch.owner, names[ident], size, OUTPUT, now, expires)
            for ident, size in sizes.items()
            if size
        ]

    async def _chunks(self, outcome: Outcome) -> AsyncIterator[list[tuple[str, str]]]:
        """Rows with the files they belong to, some at a time."""
        numbers = self._lines.numbers
        for start in range(0, len(numbers), _CHUNK):
            part = list(numbers[start : start + _CHUNK])
            rows = await self._progress.rows(self._batch.id, part)
            yield [await self._placed(number, row, outcome) for number, row in zip(part, rows, strict=True)]

    async def _placed(self, number: int, row: str | None, outcome: Outcome) -> tuple[str, str]:
        if row is None:
            if outcome == "completed":
                raise MissingRowError
            custom_id = await asyncio.to_thread(_custom_id, self._lines, number)
            return self._batch.error, unasked_row(self._batch.id, number, custom_id, outcome)
        response = json.loads(row)["response"]
        good = response is not None and response["status_code"] == 200
        return (self._batch.output if good else self._batch.error), row

    def _write(self, opened: dict[str, BinaryIO], chunk: list[tuple[str, str]]) -> dict[str, int]:
        sizes = dict.fromkeys(opened, 0)
        for ident, row in chunk:
            sizes[ident] += opened[ident].write(row.encode() + b"\n")
            if ident == self._batch.output:
                self.answered += 1
            else:
                self.failed += 1
        return sizes


def _custom_id(lines: Lines, number: int) -> str | None:
    try:
        return str(lines.read(number)["custom_id"])
    except BadLineError as error:
        return error.custom_id
