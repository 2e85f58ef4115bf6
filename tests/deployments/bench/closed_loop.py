"""An engine and its clients on a clock of their own, to compare whose turn it is under different policies."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from symmoe.deployments.bench.first_come import FirstCome, Policy

from symmoe.planning.turns import Waiting

SLOTS, PATIENCE, AMORTISE = 32, 5.0, 4.0


@dataclass(frozen=True)
class Crowd:
    """Clients that each ask an expert at random, wait for the answer, and ask again.

    A switch takes so many seconds, and a step of the engine `step` seconds and `each` more for each request that runs;
    a request takes between `shortest` and `longest` steps. By Zipf's law, the n-th expert is asked 1/n as often as the
    first. `asks` is how many requests there are together; None for a minute or more of them.
    """

    clients: int
    switch: float
    zipf: bool = False
    step: float = 0.02
    each: float = 0.002
    shortest: int = 4
    longest: int = 20
    keys: int = 1
    asks: int | None = None
    experts: int = 8


@dataclass(frozen=True)
class Served:
    """Answers a second, and the longest wait in seconds."""

    rate: float
    longest: float


class ClosedLoop:
    """One run; each client asks the same things under every policy."""

    def __init__(self, crowd: Crowd, policy: Policy, seed: int) -> None:
        self._crowd = crowd
        self._turns = FirstCome(SLOTS, 1_000_000, PATIENCE, AMORTISE)
        self._turns.policy = policy
        self._draws = [Random(f"{seed} {client}") for client in range(crowd.clients)]
        if crowd.asks is not None:
            self._draws = [Random(seed)] * crowd.clients
        self._now, self._asked, self._answered, self._longest = 0.0, 0, 0, 0.0
        self._whose: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._running: dict[str, int] = {}

    def run(self) -> Served:
        """What comes of it."""
        for client in range(self._crowd.clients):
            self._ask(client)
        most = float("inf") if self._crowd.asks is not None else max(60.0, 60 * self._crowd.switch)
        while (self._running or self._turns.waiting) and self._now < most:
            self._go_on()
        return Served(self._answered / self._now, self._longest)

    def _ask(self, client: int) -> None:
        if self._asked == self._crowd.asks:
            return
        draw, ident = self._draws[client], f"{self._asked:07d}"
        weights = [1 / (place + 1) if self._crowd.zipf else 1.0 for place in range(self._crowd.experts)]
        (expert,) = draw.choices(range(self._crowd.experts), weights)
        self._steps[ident] = draw.randint(self._crowd.shortest, self._crowd.longest)
        self._whose[ident] = client
        self._asked += 1
        self._turns.arrive(Waiting(ident, f"e{expert}", f"k{client % self._crowd.keys}", self._now, 1e12))

    def _go_on(self) -> None:
        expert = self._turns.switch(self._now)
        if expert is not None:
            self._now += self._crowd.switch
            self._turns.loaded(expert, self._crowd.switch, self._now)
        for each in self._turns.begin(self._now):
            self._running[each.id] = self._steps.pop(each.id)
            self._longest = max(self._longest, self._now - each.arrived)
        assert self._running, "something waits, and nothing is done"
        self._now += self._crowd.step + self._crowd.each * len(self._running)
        self._running = {ident: left - 1 for ident, left in self._running.items()}
        for ident in [ident for ident, left in self._running.items() if left == 0]:
            del self._running[ident]
            self._turns.leave(ident, self._now)
            self._answered += 1
            self._ask(self._whose.pop(ident))


def ratio(crowd: Crowd, seeds: range) -> tuple[float, float, float]:
    """Our answers a second over those of joining, and the longest waits under both: means over the seeds."""
    runs = [[ClosedLoop(crowd, policy, seed).run() for policy in ("turns", "first_come_joined")] for seed in seeds]
    pairs = [(ours.rate / other.rate, ours.longest, other.longest) for ours, other in runs]
    return tuple(sum(column) / len(runs) for column in zip(*pairs, strict=True))  # type: ignore[return-value]
