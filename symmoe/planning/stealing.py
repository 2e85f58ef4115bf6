"""Work that moves while a plan runs: a worker that is done takes over what another has not begun."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from symmoe.planning.problem import Problem

_LEAST_GAIN = 1e-6


@dataclass(slots=True)
class Batch:
    """Requests of one expert that a worker has still to begin, by their numbers."""

    expert: str
    numbers: deque[int]


@dataclass(slots=True)
class Seat:
    """A worker while it runs: what waits, which expert it has ready, and its pace.

    The pace is how long its requests took by how long they were thought to take; one for a worker that did nothing yet.
    `ahead` is the expert being loaded beside the one that answers, and since when.
    """

    queue: deque[Batch]
    loaded: str | None
    ahead: tuple[str, float] | None = None
    span: int | None = None
    _since: float = 0.0
    _predicted: float = 0.0
    _answering: bool = False
    _busy: bool = False
    _took: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def pace(self) -> float:
        """Seconds that a predicted second of requests takes here."""
        took, predicted = self._took
        return took / predicted if predicted > 0 and took > 0 else 1.0

    def begin(self, now: float, predicted: float, answering: bool) -> None:
        """Something begins that was predicted to take so long."""
        self._since, self._predicted, self._answering, self._busy = now, predicted, answering, True

    def settle(self, now: float) -> None:
        """What was going on is done."""
        if self._busy and self._answering:
            self._took[0] += now - self._since
            self._took[1] += self._predicted
        self._busy = False

    def expected_end(self, problem: Problem, now: float) -> float:
        """When it will be done with all that waits, at its pace; what overran its time is taken to end now."""
        end = now
        if self._busy:
            end = max(now, self._since + self._predicted * (self.pace if self._answering else 1.0))
        loaded = self.loaded
        for batch in self.queue:
            if batch.numbers:
                end += problem.load(batch.expert, loaded)
                end += len(batch.numbers) * problem.costs[batch.expert].request * self.pace
                loaded = batch.expert
        return end


def stolen(seats: list[Seat], thief: int, problem: Problem, now: float, begun: bool) -> bool:
    """Move to an idle worker the requests whose moving lets the two end soonest; False if none would end sooner.

    The worker that is expected to end last gives, else the next to last, and so on. Of each of its batches the best
    number of requests is weighed, the load on the taker included. Those of an expert that the giver is loading or
    running are taken only if `begun` says so; always the last ones, which nobody has asked yet.
    """
    ends = [(seat.expected_end(problem, now), worker) for worker, seat in enumerate(seats) if worker != thief]
    for end, worker in sorted(ends, reverse=True):
        giver = seats[worker]
        first = 1 if giver.queue and giver.queue[0].expert == giver.loaded and not begun else 0
        places = range(first, len(giver.queue))
        options = [_option(seats, (thief, worker), place, problem, (now, end)) for place in places]
        best = max((option for option in options if option is not None), default=None)
        if best is None:
            continue
        _, place, count = best
        batch = giver.queue[place]
        taken = [batch.numbers.pop() for _ in range(count)]
        seats[thief].queue.append(Batch(batch.expert, deque(reversed(taken))))
        if not batch.numbers and place > 0:
            del giver.queue[place]
        return True
    return False


def _option(
    seats: list[Seat], pair: tuple[int, int], place: int, problem: Problem, times: tuple[float, float]
) -> tuple[float, int, int] | None:
    """What is gained by taking the best number of requests of one batch, its place, and that number."""
    (thief, giver), (now, end) = pair, times
    batch = seats[giver].queue[place]
    if not batch.numbers or not problem.fits(batch.expert, thief):
        return None
    request = problem.costs[batch.expert].request
    load = problem.load(batch.expert, seats[thief].loaded)
    slow, fast = request * seats[thief].pace, request * seats[giver].pace
    level = (end - now - load) / max(slow + fast, 1e-12)
    counts = {min(max(rounded, 1), len(batch.numbers)) for rounded in (math.floor(level), math.ceil(level))}
    counts.add(len(batch.numbers))
    saved = problem.load(batch.expert, None) if place > 0 else 0.0
    soonest = [
        (end - max(now + load + n * slow, end - n * fast - (saved if n == len(batch.numbers) else 0.0)), place, n)
        for n in counts
    ]
    best = max(soonest)
    return best if best[0] > _LEAST_GAIN else None
