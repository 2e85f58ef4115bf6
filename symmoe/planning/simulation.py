"""A schedule played through, event by event, with costs that need not be those it was made for."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from symmoe.planning.problem import Problem
from symmoe.planning.scheduling import Schedule
from symmoe.planning.stealing import Batch, Seat, stolen

Stealing = Literal["none", "steps", "requests"]


class Truth(Protocol):
    """What loads and requests really take."""

    def load(self, worker: int, expert: str, after: str | None) -> float:
        """Seconds to make an expert ready on a worker that has another ready, or nothing."""
        ...

    def request(self, worker: int, expert: str, number: int) -> float:
        """Seconds of an expert's request of that number, counted from 0."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """What a worker did from one second to another: loading an expert, or answering so many requests with it."""

    worker: int
    expert: str
    kind: Literal["load", "generate"]
    begin: float
    end: float
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened, when the last worker was done, who answered each expert's requests, and how often work moved.

    `answered` lists for every expert the number of each request with the worker that answered it, in the order of time.
    """

    spans: tuple[Span, ...]
    makespan: float
    answered: Mapping[str, tuple[tuple[int, int], ...]]
    steals: int


def simulate(
    schedule: Schedule, problem: Problem, truth: Truth, prefetch: bool = False, stealing: Stealing = "none"
) -> Timeline:
    """Play a schedule. Requests of one expert run one after another, each taking its share of the engine's time.

    With `prefetch` a worker begins to load its next expert when the one before begins to answer. With `stealing` one
    that is done takes over, as `symmoe.planning.stealing` says, `steps` that another has not begun, in whole or in
    part, or `requests` of the running ones too, which an engine must be able to give back.
    """
    return _Run(schedule, problem, truth, prefetch, stealing).finished()


class _Run:
    """Workers as seats, and the times at which each has something to decide."""

    def __init__(self, schedule: Schedule, problem: Problem, truth: Truth, prefetch: bool, stealing: Stealing) -> None:
        self._problem, self._truth = problem, truth
        self._prefetch, self._stealing = prefetch, stealing
        self._seats = _seats(schedule, problem)
        self._events: list[tuple[float, int]] = [(0.0, worker) for worker in range(len(self._seats))]
        self._spans: list[Span] = []
        self._answered: dict[str, list[tuple[int, int]]] = {}
        self._idle: list[int] = []
        self._steals = 0

    def finished(self) -> Timeline:
        """Run until every worker is idle."""
        while self._events:
            now, worker = heapq.heappop(self._events)
            self._act(worker, now)
            if self._stealing != "none":
                for thief in list(self._idle):
                    self._steal(thief, now)
        spans = tuple(sorted(self._spans, key=lambda span: (span.worker, span.begin, span.end)))
        answered = {expert: tuple(seen) for expert, seen in self._answered.items()}
        return Timeline(spans, max((span.end for span in spans), default=0.0), answered, self._steals)

    def _act(self, worker: int, now: float) -> None:
        seat = self._seats[worker]
        seat.settle(now)
        while seat.queue and not seat.queue[0].numbers:
            seat.queue.popleft()
        if not seat.queue:
            self._idle.append(worker)
        elif seat.loaded == seat.queue[0].expert:
            self._answer(worker, now)
        else:
            self._load(worker, now)

    def _answer(self, worker: int, now: float) -> None:
        seat = self._seats[worker]
        batch = seat.queue[0]
        if self._prefetch and len(seat.queue) > 1 and seat.ahead is None:
            seat.ahead = (seat.queue[1].expert, now)
        number = batch.numbers.popleft()
        end = now + self._truth.request(worker, batch.expert, number)
        self._answered.setdefault(batch.expert, []).append((number, worker))
        self._stretch(worker, batch.expert, now, end)
        seat.begin(now, self._problem.costs[batch.expert].request, answering=True)
        heapq.heappush(self._events, (end, worker))

    def _load(self, worker: int, now: float) -> None:
        seat = self._seats[worker]
        expert = seat.queue[0].expert
        began = seat.ahead[1] if seat.ahead is not None and seat.ahead[0] == expert else now
        took = self._truth.load(worker, expert, seat.loaded)
        end = max(now, began + took)
        self._spans.append(Span(worker, expert, "load", began, began + took))
        seat.begin(now, max(0.0, self._problem.load(expert, seat.loaded) - (now - began)), answering=False)
        seat.loaded, seat.ahead = expert, None
        heapq.heappush(self._events, (end, worker))

    def _steal(self, thief: int, now: float) -> None:
        if stolen(self._seats, thief, self._problem, now, begun=self._stealing == "requests"):
            self._steals += 1
            self._idle.remove(thief)
            self._act(thief, now)

    def _stretch(self, worker: int, expert: str, begin: float, end: float) -> None:
        """Lengthen the worker's last span if it answers the same expert without a pause, else begin another."""
        place = self._seats[worker].span
        last = self._spans[place] if place is not None else None
        if last is not None and (last.expert, last.kind, last.end) == (expert, "generate", begin):
            self._spans[place or 0] = Span(worker, expert, "generate", last.begin, end, last.requests + 1)
            return
        self._seats[worker].span = len(self._spans)
        self._spans.append(Span(worker, expert, "generate", begin, end, 1))


def _seats(schedule: Schedule, problem: Problem) -> list[Seat]:
    """Every worker with its batches; an expert's requests are numbered through from worker to worker."""
    numbered: Counter[str] = Counter()
    seats: list[Seat] = []
    for worker, shares in zip(problem.workers, schedule.shares, strict=True):
        queue: deque[Batch] = deque()
        for share in shares:
            first = numbered[share.expert]
            queue.append(Batch(share.expert, deque(range(first, first + share.requests))))
            numbered[share.expert] += share.requests
        seats.append(Seat(queue, worker.resident or None))
    return seats
