"""Having the lines of one batch answered: a bounded number open, those that were turned away asked again later."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..telemetry.note import Note
from .counting import BatchMetrics
from .input import BadLineError, Lines
from .progress import Progress
from .records import ENDPOINT, BatchRecord
from .rows import Answered, Asking, bad_row, line_id, response_row
from .window import Window

_LONGEST_PAUSE = 60.0
_MOST_LOST = 8
_LONGEST_ANSWER = 3600.0


@dataclass(frozen=True, slots=True, order=True)
class _Later:
    due: float
    number: int
    tries: int
    lost: int


@dataclass(frozen=True, slots=True)
class Means:
    """What the batches of one process share. `tell` is called with a note about each line that has its row."""

    ask: Asking
    progress: Progress
    window: Window
    metrics: BatchMetrics
    pause: float = 1.0
    tell: Callable[[Note], None] = lambda note: None


class Answering:
    """Answers lines of one batch and writes their rows, until it is told to stop."""

    def __init__(self, batch: BatchRecord, lines: Lines, means: Means, clock: Callable[[], float] = time.time) -> None:
        self._batch, self._lines, self._means, self._clock = batch, lines, means, clock
        self._later: list[_Later] = []
        self._open: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def run(self, numbers: Iterable[int]) -> None:
        """Answer these lines. Cancelling it closes what is open. Raises what is nobody's fault, such as a lost disk."""
        fresh = deque(_Later(0.0, number, 0, 0) for number in numbers)
        try:
            while fresh or self._later or self._open:
                if self._failure is not None:
                    raise self._failure
                if (line := self._next(fresh)) is None:
                    await self._something()
                    continue
                await self._means.window.enter(self._batch.id)
                task = asyncio.create_task(self._answer(line))
                self._open.add(task)
                task.add_done_callback(self._over)
        finally:
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def _next(self, fresh: deque[_Later]) -> _Later | None:
        """A line that was not asked yet, else one whose pause is over: lines that fail hold no others up."""
        if fresh:
            return fresh.popleft()
        if self._later and self._later[0].due <= time.monotonic():
            return heapq.heappop(self._later)
        return None

    async def _something(self) -> None:
        """Wait until a line is over, or one's pause is."""
        pause = max(0.0, self._later[0].due - time.monotonic()) if self._later else None
        if self._open:
            await asyncio.wait(self._open, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(pause or 0.0)

    def _over(self, task: asyncio.Task[None]) -> None:
        """Also for one that was cancelled before it began."""
        self._open.discard(task)
        self._means.window.leave()
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _answer(self, line: _Later) -> None:
        batch, number = self._batch.id, line.number
        try:
            document = await asyncio.to_thread(self._lines.read, number)
        except BadLineError as error:
            row = bad_row(batch, number, error.custom_id, error.code, str(error))
            note = Note(line_id(batch, number), "POST", ENDPOINT, status=400, code=error.code, key=self._batch.owner)
            await self._put(line, row, "failed", note)
            return
        answered = await self._ask(document, number)
        lost = line.lost + answered.lost
        if answered.again and lost < _MOST_LOST:
            await self._pause(line, answered, lost)
            return
        await self._put(line, *response_row(batch, number, document["custom_id"], answered), answered.note)

    async def _ask(self, document: dict[str, object], number: int) -> Answered:
        batch = self._batch
        seconds = min(_LONGEST_ANSWER, max(1.0, batch.expires - self._clock()))
        body = document["body"]
        name, share = line_id(batch.id, number), f"batch:{batch.id}"
        return await self._means.ask(body, name, share, batch.owner, seconds)  # type: ignore[arg-type]

    async def _pause(self, line: _Later, answered: Answered, lost: int) -> None:
        """Put it off, for longer each time. It keeps its place for a moment: failures must not come in a storm."""
        self._means.metrics.line("retried")
        longest = min(_LONGEST_PAUSE, self._means.pause * 2**line.tries)
        pause = max(longest * random.uniform(0.5, 1.0), min(answered.retry_after, longest))
        heapq.heappush(self._later, _Later(time.monotonic() + pause, line.number, min(line.tries + 1, 16), lost))
        await asyncio.sleep(min(pause, self._means.pause))

    async def _put(self, line: _Later, row: str, count: str, note: Note | None) -> None:
        await self._means.progress.put(self._batch.id, line.number, row, count)
        self._means.metrics.line(count)
        if note is not None:
            note.batch, note.tries = self._batch.id, line.tries + 1
            self._means.tell(note)
