"""A schedule played through, worker by worker, with costs that need not be those it was made for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, Protocol

from symmoe.planning.problem import Problem
from symmoe.planning.scheduling import Schedule


class Truth(Protocol):
    """What loads and requests really take."""

    def load(self, worker: int, expert: str, after: str | None) -> float:
        """Seconds to make an expert ready on a worker that has another ready, or nothing."""
        ...

    def request(self, worker: int, expert: str, number: int) -> float:
        """Seconds of an expert's request of that number, counted from 0."""
        ...


class AsPredicted:
    """Everything takes what it is predicted to take."""

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
    """What a worker did from one second to another: loading an expert, or answering so many requests with it."""

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
    """Play a schedule. Requests of one expert run one after another, each taking its share of the engine's time.

    A split expert's requests are numbered through from worker to worker. With `prefetch` a worker begins to load its
    next expert when the one before begins to answer.
    """
    numbered: Counter[str] = Counter()
    spans: list[Span] = []
    for worker, shares in enumerate(schedule.shares):
        loaded, now = problem.workers[worker].resident or None, 0.0
        answering: float | None = None
        for share in (share for share in shares if share.requests):
            if loaded != share.expert:
                began = answering if prefetch and answering is not None else now
                ended = began + truth.load(worker, share.expert, loaded)
                spans.append(Span(worker, share.expert, "load", began, ended))
                loaded, now = share.expert, max(now, ended)
            first = numbered[share.expert]
            numbered[share.expert] += share.requests
            answering = now
            now += sum(truth.request(worker, share.expert, first + n) for n in range(share.requests))
            spans.append(Span(worker, share.expert, "generate", answering, now, share.requests))
    return Timeline(tuple(spans), max((span.end for span in spans), default=0.0))
