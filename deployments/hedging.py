"""Waves of a question's experts, one after another or, when time is short, in parallel."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from symmoe.answering import Ask, PartialReplies, Reply
from symmoe.types import Assignment, Hedge

ReplyTask = asyncio.Task[Mapping[Assignment, Reply]]
"""One call: what it gives to each assignment that it serves."""
_KEPT = 64
_FEWEST = 5
_USUALLY = 0.95


class Latencies:
    """The durations in seconds of each expert's last 64 calls in this process."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def note(self, expert: str, seconds: float, answered: bool) -> None:
        """Note a call's duration. A cancelled one (not `answered`) counts if it took longer than usual.

        Otherwise an expert that became slower would be taken as late for ever.
        """
        if answered or seconds > (self.usual(expert) or math.inf):
            self._seconds[expert].append(seconds)

    def usual(self, expert: str) -> float | None:
        """The 95th percentile of an expert's durations in seconds (nearest rank); None before its fifth call."""
        seconds = sorted(self._seconds.get(expert, ()))
        return seconds[math.ceil(_USUALLY * len(seconds)) - 1] if len(seconds) >= _FEWEST else None


def hedge_at(
    now: float, deadline: float, under_way: Sequence[tuple[float, float | None]], spare: Sequence[float | None]
) -> tuple[float, Literal["late", "deadline"]]:
    """When the next wave begins in parallel to the one under way, and why.

    That is when the first call `under_way`, each given by its start and usual duration, exceeds its usual duration
    ("late"), or earlier, so that the usual duration of the slowest of the `spare` experts is left ("deadline"). An
    unknown duration is taken as half of the time that was left at the start of its call, or is left now. All times are
    by one clock, in seconds.
    """
    late = min(asked_at + ((deadline - asked_at) / 2 if usual is None else usual) for asked_at, usual in under_way)
    latest = deadline - max((deadline - now) / 2 if usual is None else usual for usual in spare)
    return (late, "late") if late <= latest else (latest, "deadline")


class Calls:
    """The calls of one question that are under way. `start` begins those of some assignments of a need.

    With a `deadline`, by the clock of the event loop, the next wave begins in parallel to one that is late or leaves it
    no time, as `hedge_at` decides from the `usual` durations. Always `close` it.
    """

    def __init__(
        self,
        start: Callable[[Ask, Sequence[Assignment]], Mapping[Assignment, ReplyTask]],
        usual: Callable[[str], float | None],
        deadline: float | None,
    ) -> None:
        self._start, self._usual, self._deadline = start, usual, deadline
        self._under_way: dict[Assignment, ReplyTask] = {}
        self._asked: dict[Assignment, float] = {}
        self._dropped: set[ReplyTask] = set()
        self._loop = asyncio.get_running_loop()
        self._began, self._hedged = self._loop.time(), False

    async def replies(self, need: Ask) -> Sequence[Reply] | PartialReplies:
        """The answers of those asked: all of them, or once a parallel wave began, of whoever has answered first.

        Raises what a call raises other than a refusal.
        """
        assignments = need.recruitment.assignments
        self._hedged = self._hedged and bool(self._under_way)
        self._begin(need, assignments)
        hedge = await self._pressed(need)
        if not self._hedged:
            results = await asyncio.gather(*(self._under_way[each] for each in assignments))
            return [result[self._pop(each)] for result, each in zip(results, assignments, strict=True)]
        done, _ = await asyncio.wait(set(self._under_way.values()), return_when=asyncio.FIRST_COMPLETED)
        ended = {each: task.result()[each] for each, task in self._under_way.items() if task in done}
        return PartialReplies({self._pop(each): reply for each, reply in ended.items()}, hedge)

    def keep(self, assignments: Sequence[Assignment]) -> None:
        """Cancel all calls but these."""
        tasks = {self._under_way[each] for each in assignments if each in self._under_way}
        for assignment, task in list(self._under_way.items()):
            if task not in tasks:
                task.cancel()
                self._dropped.add(task)
                self._pop(assignment)

    async def close(self) -> None:
        """Cancel what is not finished."""
        self.keep(())
        await asyncio.gather(*self._dropped, return_exceptions=True)

    async def _pressed(self, need: Ask) -> Hedge | None:
        """Where there is a deadline, wait for those asked as long as there is time; then ask the spare beside them."""
        if self._deadline is None or not need.spare:
            return None
        waited, now = dict(self._under_way), self._loop.time()
        usual = [(self._asked[each], self._usual(each.expert)) for each in waited]
        at, why = hedge_at(now, self._deadline, usual, [self._usual(each.expert) for each in need.spare])
        until = asyncio.FIRST_COMPLETED if self._hedged else asyncio.FIRST_EXCEPTION
        done, late = await asyncio.wait(set(waited.values()), timeout=max(0.0, at - now), return_when=until)
        if not late or (done and until == asyncio.FIRST_COMPLETED):
            return None
        self._begin(need, need.spare)
        self._hedged = True
        beside = dict.fromkeys(each.expert for each, task in waited.items() if task in late)
        experts = dict.fromkeys(each.expert for each in need.spare)
        return Hedge(tuple(experts), tuple(beside), why, round(self._loop.time() - self._began, 4))

    def _begin(self, need: Ask, assignments: Sequence[Assignment]) -> None:
        new = [each for each in assignments if each not in self._under_way]
        if new:
            self._under_way |= self._start(need, new)
            self._asked |= dict.fromkeys(new, self._loop.time())

    def _pop(self, assignment: Assignment) -> Assignment:
        del self._under_way[assignment], self._asked[assignment]
        return assignment
