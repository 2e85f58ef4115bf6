"""One batch from its first look at the input to its end, taken up wherever it was left."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress
from typing import Any

from ..settings import Settings
from .answering import Answering, BatchResources
from .batches import BatchRecord, Outcome
from .files import Files
from .input import BadInputError, Lines, StoppedError, find_lines
from .output import MissingRowError, Output
from .quota import FullError
from .store_access import cancel

_FULL = (
    "file_quota_exceeded",
    "the files of this key left no room for more answers: what there was until then is in the output; delete files "
    "(DELETE /v1/files/ID) and ask the lines again that are in the error file",
)


class NotHereError(Exception):
    """The input's contents are on another machine: ingress machines share no volume."""


class Job:
    """Runs a batch to its end. `stop` it when it is cancelled."""

    def __init__(self, batch: BatchRecord, files: Files, resources: BatchResources, settings: Settings) -> None:
        self._batch, self._files, self._resources = batch, files, resources
        self._most_bytes, self._most_lines = settings.most_bytes, settings.most_batch_lines
        self._progress = resources.progress
        self._stopped = asyncio.Event()
        self._decided = False
        self._full = batch.facts.get("outcome") == "failed"

    def stop(self) -> None:
        """Ask no more lines, as the batch was cancelled."""
        self._stopped.set()

    async def run(self) -> None:
        """Run the batch to its end. Where this is cancelled, another run goes on with it. May raise `NotHereError`."""
        if "ending" in self._batch.facts:
            await self._progress.finish(self._batch, self._batch.facts["ending"])
            return
        if "cancelling_at" in self._batch.facts:
            self.stop()
        try:
            lines = await self._input()
        except BadInputError as bad:
            await self._fail(bad)
            return
        except StoppedError:
            await self._end(await self._progress.decide(self._batch.id, "cancelled"), {}, [])
            return
        try:
            await self._answer_all(lines)
        finally:
            lines.close()
            await asyncio.to_thread(self._progress.segments.close, self._batch.id)

    async def _input(self) -> Lines:
        path, gone = self._files.contents.path(self._batch.input), threading.Event()
        new = "in_progress_at" not in self._batch.facts  # else it has rows, whose lines must be known

        def stopped() -> bool:
            return gone.is_set() or (new and self._stopped.is_set())

        try:
            async with self._resources.scans.turn(self._batch.owner):
                places = await asyncio.to_thread(find_lines, path, self._most_bytes, self._most_lines, stopped=stopped)
            return Lines(path, places, self._most_bytes)
        except FileNotFoundError as error:
            if await self._progress.knows_file(self._batch.input) and time.time() < self._batch.expires:
                raise NotHereError(self._batch.input) from error
            raise BadInputError("input_file_not_found", "the input file is not there any more") from error
        finally:
            gone.set()  # a thread cannot be cancelled

    async def _fail(self, bad: BadInputError) -> None:
        outcome = await self._progress.decide(self._batch.id, "failed")
        await self._end(outcome, _errors(bad.code, str(bad)) if outcome == "failed" else {}, [])

    async def _answer_all(self, lines: Lines) -> None:
        """Answer what has no row, decide how it ends, and write its files; again if the store forgot a row."""
        ident, now = self._batch.id, int(time.time())
        if not self._stopped.is_set():
            await self._progress.note(ident, {"in_progress_at": now})
            self._resources.metrics.entered("in_progress")
        await self._progress.note(ident, {"total": len(lines.numbers)})
        output = Output(self._batch, lines, self._progress, self._files.contents)
        while True:
            done = await self._progress.done(ident)
            missing = [number for number in lines.numbers if number not in done]
            early = self._early()
            if missing and early is None:
                try:
                    await self._answer(lines, missing)
                except FullError:
                    self._full = True
                continue
            outcome = await self._progress.decide(ident, early if missing and early else "completed")
            with suppress(MissingRowError):
                files = await output.write(outcome, int(time.time()))
                facts = {"answered": output.answered, "failed": output.failed}
                await self._end(outcome, {**facts, **(_errors(*_FULL) if outcome == "failed" else {})}, files)
                return
            self._decided = outcome == "completed"

    def _early(self) -> Outcome | None:
        if self._decided:  # it was complete before the store forgot some of it, and will be again
            return None
        if self._stopped.is_set():
            return "cancelled"
        if self._full:
            return "failed"
        return "expired" if time.time() >= self._batch.expires else None

    async def _answer(self, lines: Lines, missing: list[int]) -> None:
        """Have lines answered until all are, the window ends or the batch is cancelled."""
        answering = asyncio.ensure_future(Answering(self._batch, lines, self._resources).run(missing))
        stopped = asyncio.ensure_future(self._stopped.wait())
        timeout = None if self._decided else max(0.0, self._batch.expires - time.time())
        ends = (answering,) if self._decided else (answering, stopped)
        try:
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            await cancel(answering, stopped)

    async def _end(self, outcome: Outcome, facts: dict[str, Any], files: list[Any]) -> None:
        file_ids = {file.id for file in files}
        flags = {"has_output": int(self._batch.output in file_ids), "has_error": int(self._batch.error in file_ids)}
        await self._progress.end(self._batch, outcome, {**flags, **facts}, files)
        self._resources.metrics.entered(outcome)


def _errors(code: str, message: str) -> dict[str, str]:
    error = {"code": code, "message": message, "param": None, "line": None}
    return {"errors": json.dumps({"object": "list", "data": [error]})}
