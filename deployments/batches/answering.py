"""Having the lines of batches answered: how many are open at once, of which keys, and in whose turn.

Lines that were turned away are asked again later.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client import Counter as Count

from symmoe.limits import FAILURES_A_PAUSE, HEAVY_LINE, KEY_SHARE, LONGEST_KEY_PAUSE
from symmoe.wire.answers import bad_row, line_id, row_text
from symmoe.wire.lines import BadLineError

from ..telemetry.note import Note
from .batches import ENDPOINT, BatchRecord
from .input import Lines
from .output import Answered, Asking, response_line
from .progress import Progress
from .quota import Grants


class BatchMetrics:
    """The batches' part of one ingress's counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lines = Count("symmoe_batch_lines", "Lines of batches", ("outcome",), registry=registry)
        self._states = Count("symmoe_batch_states", "Batches that came into a state", ("state",), registry=registry)
        self._open = Gauge("symmoe_batches_open", "Batches that are not over, of all ingresses", registry=registry)
        self._running = Gauge("symmoe_batches_running", "Batches that this ingress works on", registry=registry)

    def line(self, outcome: str) -> None:
        """A line was `answered`, has `failed`, or is `retried`."""
        self._lines.labels(outcome).inc()

    def entered(self, state: str) -> None:
        """A batch came into a state, here."""
        self._states.labels(state).inc()

    def set_counts(self, opened: int, running: int) -> None:
        """Set how many batches are not over, of all ingresses, and how many of them run here."""
        self._open.set(opened)
        self._running.set(running)


_LOOK_SECONDS = 0.25
_ENDLESS = 1 << 62


@dataclass(eq=False, slots=True)
class Place:
    """The place of one open line, of so many `weight` bytes."""

    owner: str
    weight: int
    given: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Window:
    """Places for open lines, given in turn to the keys that wait, and to the batches of a key in turn.

    `room` says how many lines may be open now, `most` how many bytes they may weigh together. Some of both is kept for
    every key: one that has less than its share enters at once, and one with no line open may have one of any weight.
    """

    def __init__(self, room: Callable[[], int], most: int = _ENDLESS) -> None:
        self._room, self._most = room, most
        self._open: Counter[str] = Counter()
        self._weight: Counter[str] = Counter()
        self._waiting: dict[str, list[Place]] = {}  # keys in the order of their turns, each with its batches in theirs
        self._paused: dict[str, float] = {}
        self._look: asyncio.TimerHandle | None = None

    async def enter(self, owner: str, weight: int = 0) -> Place:
        """Wait until one more line of a key may be open; `leave` its place again. A batch waits for one at a time."""
        place = Place(owner, weight)
        self._waiting.setdefault(owner, []).append(place)
        self._give()
        try:
            await place.given
        except BaseException:
            if place.given.cancelled():
                self._drop(place)
            else:
                self.leave(place)
            raise
        return place

    def leave(self, place: Place) -> None:
        """Give the place of a line back."""
        for counts, amount in ((self._open, 1), (self._weight, place.weight)):
            counts[place.owner] -= amount
            if not counts[place.owner]:
                del counts[place.owner]
        self._give()

    def pause(self, owner: str, seconds: float) -> None:
        """Give a key no place for so many seconds, as it is over its limit; at most `LONGEST_KEY_PAUSE`."""
        self._paused[owner] = time.monotonic() + min(seconds, LONGEST_KEY_PAUSE)
        self._give()

    def _give(self) -> None:
        """Give what places there are, one to each key whose turn it is."""
        now = time.monotonic()
        self._paused = {owner: until for owner, until in self._paused.items() if until > now}
        while sum(self._give_one(owner) for owner in list(self._waiting)):
            continue
        self._look_again(now)

    def _give_one(self, owner: str) -> bool:
        place = self._waiting[owner][0]
        if not place.given.cancelled() and (owner in self._paused or not self._may(owner, place.weight)):
            return False
        self._drop(place)
        if place.given.cancelled():  # who waited is gone, and about to say so
            return True
        if owner in self._waiting:
            self._waiting[owner] = self._waiting.pop(owner)  # to the end: it is the others' turn
        self._open[owner] += 1
        self._weight[owner] += place.weight
        place.given.set_result(None)
        return True

    def _may(self, owner: str, weight: int) -> bool:
        room, open_lines, total_weight = self._room(), self._open[owner], self._weight[owner] + weight
        if room <= 0:
            return False
        if open_lines < max(1, room // KEY_SHARE) and (not open_lines or total_weight <= self._most // KEY_SHARE):
            return True
        return self._open.total() < room and self._weight.total() + weight <= self._most

    def _drop(self, place: Place) -> None:
        places = self._waiting.get(place.owner, [])
        if place in places:
            places.remove(place)
        if not places:
            self._waiting.pop(place.owner, None)

    def _look_again(self, now: float) -> None:
        """The room changes with time, and pauses end: see to it once that may have changed anything."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        waits = [max(self._paused.get(owner, now) - now, _LOOK_SECONDS) for owner in self._waiting]
        if waits:
            self._look = asyncio.get_running_loop().call_later(min(waits), self._give)


class Turns:
    """One at a time, and of each key one that waits: what a key has much of keeps no other from its turn."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._all = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the block."""
        async with self._of.setdefault(owner, asyncio.Lock()), self._all:
            yield


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
class BatchResources:
    """What the batches of one process share. `tell` is called with a note about each line that has its row.

    `admit` counts a line against the limits of a key: 0, or in how many seconds there is room for it. `grants` give
    room for rows.
    """

    ask: Asking
    progress: Progress
    window: Window
    metrics: BatchMetrics
    tell: Callable[[Note], None]
    admit: Callable[[str], Awaitable[float]]
    grants: Grants
    pause: float = 1.0
    scans: Turns = field(default_factory=Turns)


class Answering:
    """Answers lines of one batch and writes their rows, until it is told to stop."""

    def __init__(
        self, batch: BatchRecord, lines: Lines, resources: BatchResources, clock: Callable[[], float] = time.time
    ) -> None:
        self._batch, self._lines, self._resources, self._clock = batch, lines, resources, clock
        self._fresh: Iterator[int] = iter(())
        self._later: list[_Later] = []
        self._calm = 0.0
        self._open = 0
        self._changed = asyncio.Event()
        self._grant = resources.grants.of(batch.owner)

    async def run(self, numbers: Iterable[int]) -> None:
        """Answer these lines; cancelled, it cancels those that are open. Raises `FullError`, and what a line does."""
        self._fresh = iter(numbers)
        try:
            await self._grant.look()
            async with asyncio.TaskGroup() as group:
                while True:
                    self._changed.clear()
                    line = self._next()
                    if line is not None:
                        await self._begin(line, group)
                    elif self._open or self._later:
                        await self._something()
                    else:
                        return
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def _next(self) -> _Later | None:
        """A line that was not asked yet, else one whose pause is over: lines that fail hold no others up."""
        number = next(self._fresh, None)
        if number is not None:
            return _Later(0.0, number, 0, 0)
        if self._later and self._later[0].due <= time.monotonic():
            return heapq.heappop(self._later)
        return None

    async def _something(self) -> None:
        """Wait until a line is over, or one's pause is."""
        pause = max(0.0, self._later[0].due - time.monotonic()) if self._later else None
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._changed.wait()

    async def _begin(self, line: _Later, group: asyncio.TaskGroup) -> None:
        """Have a line asked once there is a place for it and its key is under its limits.

        A key that is over one is let be until there is room, and its line holds no place meanwhile.
        """
        await asyncio.sleep(self._calm - time.monotonic())
        work: Coroutine[None, None, None] | None = None
        while work is None:
            place = await self._resources.window.enter(self._batch.owner, self._lines.weight(line.number))
            try:
                work = await self._admitted(line)
            finally:
                if work is None:
                    self._resources.window.leave(place)
        self._open += 1
        group.create_task(work).add_done_callback(lambda _: self._over(place))

    async def _admitted(self, line: _Later) -> Coroutine[None, None, None] | None:
        """What is to be done about a line; None where its key must wait first."""
        try:
            document = await asyncio.to_thread(self._lines.read, line.number)
        except BadLineError as error:
            return self._put_bad(line, error)
        wait = await self._resources.admit(self._batch.owner)
        if wait > 0:
            self._resources.window.pause(self._batch.owner, wait)
            return None
        return self._answer(line, document)

    async def _put_bad(self, line: _Later, error: BadLineError) -> None:
        batch, number = self._batch, line.number
        row = row_text(bad_row(batch.id, number, error.custom_id, error.code, str(error)))
        note = Note(line_id(batch.id, number), "POST", ENDPOINT, status=400, code=error.code, key=batch.owner)
        await self._put(line, [row], "failed", note)

    def _over(self, place: Place) -> None:
        """Also for one that was cancelled before it began."""
        self._open -= 1
        self._changed.set()
        self._resources.window.leave(place)

    async def _answer(self, line: _Later, document: dict[str, object]) -> None:
        answered = await self._ask(document, line.number)
        lost = line.lost + answered.lost
        if answered.again and lost < _MOST_LOST:
            self._put_off(line, answered, lost)
            return
        note, ids = answered.note, (self._batch.id, line.number, str(document["custom_id"]))
        if self._lines.weight(line.number) < HEAVY_LINE:
            row, count = response_line(*ids, answered)
        else:
            row, count = await asyncio.to_thread(response_line, *ids, answered, heavy=True)
        del document, answered  # the row is as large again
        await self._put(line, row, count, note)

    async def _ask(self, document: dict[str, object], number: int) -> Answered:
        batch = self._batch
        seconds = min(_LONGEST_ANSWER, max(1.0, batch.expires - self._clock()))
        body, name = document["body"], line_id(batch.id, number)
        return await self._resources.ask(body, name, f"batches:{batch.owner}", batch.owner, seconds)  # type: ignore[arg-type]

    def _put_off(self, line: _Later, answered: Answered, lost: int) -> None:
        """Ask it again after a pause, longer each time; it gives its place up for that."""
        self._resources.metrics.line("retried")
        longest, now = min(_LONGEST_PAUSE, self._resources.pause * 2**line.tries), time.monotonic()
        pause = max(longest * random.uniform(0.5, 1.0), min(answered.retry_after, longest))
        heapq.heappush(self._later, _Later(now + pause, line.number, min(line.tries + 1, 16), lost))
        self._calm = max(now, self._calm) + self._resources.pause / FAILURES_A_PAUSE

    async def _put(self, line: _Later, row: Sequence[str], count: str, note: Note | None) -> None:
        async with self._grant.room(sum(map(len, row))):
            await self._resources.progress.put(self._batch.id, line.number, row, count)
        self._resources.metrics.line(count)
        if note is not None:
            note.batch, note.tries = self._batch.id, line.tries + 1
            self._resources.tell(note)
