"""Simulates a schedule worker by worker, with costs that may differ from those it was made for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Protocol

from symmoe.planning.problem import Problem
from symmoe.planning.scheduling import Schedule, Share


class Truth(Protocol):
    """What loads and requests really take, in seconds."""

    def load(self, worker: int, expert: str, after: str | None) -> float:
        """Seconds to make an expert ready on a worker where expert `after`, or nothing, is ready."""
        ...

    def request(self, worker: int, expert: str, number: int) -> float:
        """Seconds of an expert's request number `number`, counted from 0."""
        ...


class AsPredicted:
    """Every load and request takes its predicted time."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def load(self, worker: int, expert: str, after: str | None) -> float:
        """Seconds to make an expert ready."""
        return self._problem.load(expert, after, worker)

    def request(self, worker: int, expert: str, number: int) -> float:
        """Seconds of one request."""
        return self._problem.costs[expert].request


@dataclass(frozen=True, slots=True)
class Span:
    """What a worker did from one second to another: loading an expert, or answering a number of requests with it."""

    worker: int
    expert: str
    kind: Literal["load", "generate"]
    begin: float
    end: float
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened, worker by worker, and when the last worker was done."""

    spans: tuple[Span, ...]
    makespan: float


def simulate(schedule: Schedule, problem: Problem, truth: Truth, prefetch: bool = False) -> Timeline:
    """Simulate a schedule. Requests of one expert run one after another, each taking its share of the engine's time.

    The requests of a split expert are numbered consecutively across workers. With `prefetch` a worker begins to load
    its next expert when the current one begins to answer. A joint load begins when the last of its workers is free.
    """
    seats = [_Seat(worker, seat.resident or None) for worker, seat in enumerate(problem.workers)]
    numbered: Counter[str] = Counter()
    firsts: dict[tuple[int, int], int] = {}
    for worker, shares in enumerate(schedule.shares):
        for place, share in enumerate(shares):
            firsts[worker, place] = numbered[share.expert]
            numbered[share.expert] += share.requests
    joint_at = schedule.joint_at
    arrivals: dict[int, dict[int, float]] = {number: {} for number in range(len(schedule.joint))}
    moved = True
    while moved:
        moved = False
        for seat in seats:
            shares = schedule.shares[seat.worker]
            while seat.place < len(shares):
                share, begin, saved = shares[seat.place], seat.free(prefetch), 0.0
                if (number := joint_at.get((seat.worker, seat.place))) is not None:
                    load = schedule.joint[number]
                    arrivals[number][seat.worker] = begin
                    if len(arrivals[number]) < len(load.places):
                        break
                    begin, saved = max(arrivals[number].values()), load.saved
                seat.run(share, begin, saved, firsts[seat.worker, seat.place], truth)
                moved = True
    spans = tuple(span for seat in seats for span in seat.spans)
    return Timeline(spans, max((span.end for span in spans), default=0.0))


@dataclass(slots=True)
class _Seat:
    """A worker as it is played: the share that it comes to, what it has ready, and since when it answers with that."""

    worker: int
    loaded: str | None
    place: int = 0
    now: float = 0.0
    answering: float | None = None
    spans: list[Span] = field(default_factory=list)

    def free(self, prefetch: bool) -> float:
        """When it can begin to load."""
        return self.answering if prefetch and self.answering is not None else self.now

    def run(self, share: Share, begin: float, saved: float, first: int, truth: Truth) -> None:
        """Load, which is `saved` seconds shorter than it would be alone, and answer requests from number `first` on."""
        self.place += 1
        if not share.requests:
            return
        if self.loaded != share.expert:
            ended = begin + max(truth.load(self.worker, share.expert, self.loaded) - saved, 0.0)
            self.spans.append(Span(self.worker, share.expert, "load", begin, ended))
            self.loaded, self.now = share.expert, max(self.now, ended)
        self.answering = self.now
        self.now += sum(truth.request(self.worker, share.expert, first + n) for n in range(share.requests))
        self.spans.append(Span(self.worker, share.expert, "generate", self.answering, self.now, share.requests))
