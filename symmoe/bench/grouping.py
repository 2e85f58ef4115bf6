"""Measures grouping requests by expert, against first come, first served, on one engine in this process."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from symmoe.bench.clients import Ask, best, closed, crowd, longest_wait, summary, texts
from symmoe.bench.machine import cores_in_use
from symmoe.bench.services import Side
from symmoe.config import Pool
from symmoe.deployments.access.keys import Open
from symmoe.deployments.api.application import application
from symmoe.deployments.api.service import Service
from symmoe.deployments.expert import ExpertReplica, MakeTurns
from symmoe.deployments.experts import LocalExperts
from symmoe.deployments.orchestrator import Orchestrator
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage
from symmoe.deployments.worker import Build
from symmoe.errors import EngineError, RequestError
from symmoe.planning.turns import Turns, Waiting

Policy = Literal["turns", "first_come", "first_come_joined"]
_START_SECONDS, _STOP_SECONDS = 600.0, 10.0
TARGET = 3.0
POLICIES: tuple[Policy, ...] = ("turns", "first_come", "first_come_joined")
_PATIENT = 600.0


class FirstCome(Turns):
    """Turns with another `policy`, for comparison; it may change while no request waits or runs.

    turns               symmoe's own
    first_come          in order of arrival: consecutive requests of one expert run together; a request of another
                        expert waits until they are finished, and all others wait behind it
    first_come_joined   the oldest request's expert is next, and all requests that wait for it run with it
    """

    policy: Policy = "turns"

    def begin(self, now: float) -> list[Waiting]:
        """The requests that begin now, as `Turns.begin`."""
        if self.policy == "turns":
            return super().begin(now)
        begun = list(self._in_order(self._slots - len(self._running)))
        self._start(begun, now)
        return begun

    def switch(self, now: float) -> str | None:
        """The expert to switch to: that of the oldest request, once nothing runs."""
        if self.policy == "turns":
            return super().switch(now)
        oldest = self._oldest()
        if self._running or oldest is None or oldest.expert == self._resident:
            return None
        return oldest.expert

    def _oldest(self) -> Waiting | None:
        return min(self._waiting.values(), key=lambda each: (each.arrived, each.id), default=None)

    def _in_order(self, room: int) -> Iterator[Waiting]:
        queue = sorted(self._waiting.values(), key=lambda each: (each.arrived, each.id))
        joined = self.policy == "first_come_joined"
        if not queue or queue[0].expert != self._resident:
            return
        for each in queue:
            if room == 0 or (each.expert != self._resident and not joined):
                return
            if each.expert == self._resident:
                room -= 1
                yield each


@dataclass(frozen=True, slots=True)
class Here:
    """A service in this process: its URL, and the loop in which it runs."""

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop


@contextmanager
def serving_here(
    pool: Pool, settings: Settings, build: Build, turns: MakeTurns = Turns, admin: bool = False
) -> Iterator[Here]:
    """Serve a pool on a free port, in threads of this process, while the block runs.

    `admin` makes every caller one. Raises `EngineError` if the server does not start.
    """
    import uvicorn

    replica = ExpertReplica(pool, settings, build, turns)
    storage, loop = Storage(), asyncio.new_event_loop()
    service = Service(pool, Orchestrator(build(pool), LocalExperts(replica), settings), Open(admin), settings, storage)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application(service), log_config=None, lifespan="on"))
        thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve([listening])), daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not server.started:
                thread.join(0.01)
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise EngineError("the service to measure did not start")
            yield Here(f"http://127.0.0.1:{listening.getsockname()[1]}", service, loop)
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
            server.force_exit = True  # requests still open are dropped
            thread.join(_STOP_SECONDS)
            replica.stop()
            if not thread.is_alive():
                loop.run_until_complete(storage.close())
                loop.close()


@dataclass(frozen=True, slots=True)
class GroupingLoad:
    """The load: experts asked at random, concurrent clients, and requests in each round."""

    experts: int = 8
    clients: int = 64
    requests: int = 128
    max_tokens: int = 48
    rounds: int = 1
    seed: int = 0


def measure_grouping(
    pool: Pool, load: GroupingLoad, build: Build, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Answers per second of one load on one engine under each policy; `times` is ours divided by the others.

    The limits of waiting are raised so that no policy refuses requests. Each round has its own questions, the same for
    all policies; policies run in turn, in reverse order in every second round, and the fastest round of each counts.
    Raises `RequestError` if the pool is too small, `EngineError` if a request is not answered.
    """
    experts = [expert.name for expert in pool.experts if expert.remote is None][: load.experts]
    if len(experts) < 2:
        raise RequestError(f"pool {pool.name!r} has only {len(experts)} expert", code="too_few_experts")
    turns_of: list[FirstCome] = []

    def make(slots: int, most: int, patience: float, amortise: float) -> FirstCome:
        turns_of.append(FirstCome(slots, most, patience, amortise))
        return turns_of[0]

    settings = replace(Settings(), longest_wait=_PATIENT, deadline=_PATIENT)
    rows: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
    with serving_here(pool, settings, build, make) as here:
        side = Side("symmoe", here.url, os.getpid())
        tell("making every expert ready once")
        _answered(side, experts, texts(pool, len(experts), load.seed + 999), replace(load, clients=2))
        for number in range(load.rounds):
            for policy in POLICIES if number % 2 == 0 else POLICIES[::-1]:
                tell(f"round {number + 1} of {load.rounds}, {policy.replace('_', ' ')}")
                turns_of[0].policy = policy
                asked = texts(pool, load.requests, load.seed + number)
                dealt = [Random(load.seed + place).choice(experts) for place in range(load.requests)]
                rows[policy].append(_answered(side, dealt, asked, load))
    each = {policy: best(found) for policy, found in rows.items()}
    rates = {policy: float(row["requests_per_second"]) for policy, row in each.items()}
    times = {policy: round(rates["turns"] / rates[policy], 3) for policy in POLICIES[1:]}
    return {
        "experts": len(experts),
        "clients": load.clients,
        "requests": load.requests,
        "max_tokens": load.max_tokens,
        "policies": each,
        "times": times,
        "target": TARGET,
        "met": times["first_come"] >= TARGET,
        "rounds": rows,
    }


def _answered(side: Side, dealt: list[str], asked: list[str], load: GroupingLoad) -> dict[str, Any]:
    asks = [Ask(expert, text, load.max_tokens) for expert, text in zip(dealt, asked, strict=True)]
    with cores_in_use({"service": side.pids}) as in_use:
        outcomes = crowd(side.url, closed(asks, load.clients))
    failed = next((outcome for outcome in outcomes if outcome.kind != "answer"), None)
    if failed is not None:
        raise EngineError(f"a request was not answered: {failed.why or failed.kind}")
    return summary(outcomes) | {"longest_wait": longest_wait(outcomes)} | in_use.figures
