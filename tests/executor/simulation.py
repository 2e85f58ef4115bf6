"""Workers that run a plan in simulated time: each at its own speed, some dying on the way."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from symmoe.executor.dispatch import Dispatch
from symmoe.executor.stealing import Cost
from symmoe.types import Assignment, Call, Plan, Step
from tests.fakes import query


def call(expert: str, number: int) -> Call:
    return Call(expert, query(f"{expert} {number}", f"{expert}{number}"), (Assignment(f"{expert}{number}", expert, 0),))


def step(expert: str, count: int, worker: int = 0, first: int = 0) -> Step:
    return Step(expert, tuple(call(expert, first + number) for number in range(count)), worker)


@dataclass
class Cluster:
    """Runs a plan to its end. `speeds` are one per worker; `dies` says after how many events of its life each dies.

    A worker whose list in `dies` is used up lives on; one in `lost` is not restarted after its last death. `poison`
    kills whoever answers it.
    """

    plan: Plan
    speeds: Sequence[float]
    costs: Mapping[str, Cost]
    dies: Mapping[int, Sequence[int]] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()
    poison: frozenset[Call] = frozenset()
    retries: int = 2
    delivered: list[Call] = field(default_factory=list)
    given_up: list[Call] = field(default_factory=list)
    begun: list[tuple[int, Step]] = field(default_factory=list)
    loads: list[tuple[int, str]] = field(default_factory=list)
    now: float = 0.0

    def run(self) -> Cluster:
        self.dispatch = Dispatch(self.plan, len(self.speeds), self.costs, self.retries)
        self._lives = {worker: list(lives) for worker, lives in self.dies.items()}
        self._age = [0] * len(self.speeds)
        self._idle, self._dead = set(range(len(self.speeds))), set[int]()
        self._events: list[tuple[float, int, list[Call | None]]] = []
        self._resident = [""] * len(self.speeds)
        self._hand_out()
        while self._events:
            self.now, worker, todo = heapq.heappop(self._events)
            self._advance(worker, todo)
            self._hand_out()
        assert self.dispatch.done
        return self

    def _hand_out(self) -> None:
        for worker in sorted(self._idle):
            begun = self.dispatch.next(worker)
            if begun is not None:
                self._idle.discard(worker)
                self.begun.append((worker, begun))
                self._schedule(worker, [None, *begun.calls], begun.expert)

    def _schedule(self, worker: int, todo: list[Call | None], expert: str) -> None:
        """When the worker will have done the first of its list: a load (None) or a call."""
        cost = self.costs[expert]
        if not todo:
            spent = 0.0
        elif todo[0] is None:
            spent = 0.0 if self._resident[worker] == expert else cost.load
        else:
            spent = cost.request
        heapq.heappush(self._events, (self.now + spent / self.speeds[worker], worker, todo))

    def _advance(self, worker: int, todo: list[Call | None]) -> None:
        if not todo:
            self.dispatch.finished(worker)
            self._idle.add(worker)
            return
        done, *rest = todo
        self._age[worker] += 1
        if done in self.poison or (self._lives.get(worker) and self._age[worker] > self._lives[worker][0]):
            self._die(worker, done in self.poison)
            return
        expert = self.dispatch._runs[worker].work.step.expert
        if done is None:
            if self._resident[worker] != expert:
                self.loads.append((worker, expert))
            self._resident[worker] = expert
            self.dispatch.loaded(worker)
        else:
            assert self.dispatch.delivered(worker, done)
            assert not self.dispatch.delivered(worker, done)
            self.delivered.append(done)
        self._schedule(worker, rest, expert)

    def _die(self, worker: int, poisoned: bool) -> None:
        if not poisoned:
            self._lives[worker].pop(0)
        self._age[worker], self._resident[worker] = 0, ""
        self.given_up += self.dispatch.died(worker)
        if worker in self.lost and not self._lives.get(worker):
            self._dead.add(worker)
        else:
            self._idle.add(worker)
