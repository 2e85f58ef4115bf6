from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.bench.grouping import FirstCome, Policy
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


BATCHES = {"step": 0.3, "each": 0.02, "shortest": 1, "longest": 1}
BUSY = {"step": 0.02, "each": 0.01}
"""An engine for which many at once are nearly as slow as one after the other."""
GRID = [
    Crowd(clients, switch, zipf, keys=keys, **engine)  # type: ignore[arg-type]
    for zipf, clients, switch, keys, engine in product(
        (False, True), (8, 64, 200), (0.05, 0.3, 1.0, 2.0), (1, 1000), ({}, BATCHES, BUSY)
    )
]


@pytest.mark.parametrize(
    "crowd",
    [
        Crowd(64, 0.3, asks=128, **BATCHES),  # type: ignore[arg-type]
        Crowd(64, 0.3, asks=128, keys=1000, **BATCHES),  # type: ignore[arg-type]
        Crowd(200, 0.3, asks=400, **BATCHES),  # type: ignore[arg-type]
        Crowd(200, 0.3, asks=400),
        Crowd(64, 0.3, zipf=True, asks=128, **BUSY),  # type: ignore[arg-type]
        Crowd(8, 0.05, asks=64),
    ],
    ids=str,
)
def test_turns_are_no_slower_than_joining_where_that_is_best(crowd: Crowd) -> None:
    assert ratio(crowd, range(6))[0] > 0.985


@pytest.mark.slow
def test_they_are_no_slower_under_any_load_and_faster_on_average() -> None:
    ratios = {crowd: ratio(crowd, range(2))[0] for crowd in GRID}
    # two runs of a minute say it to within two percent: the lowest, 0.98, is 0.995 over six others
    assert min(ratios.values()) > 0.97, min(ratios, key=lambda crowd: ratios[crowd])
    assert sum(ratios.values()) / len(ratios) > 1.08


def test_an_expert_that_hardly_anybody_asks_is_not_kept_waiting() -> None:
    crowd = Crowd(64, 0.3, zipf=True)
    longest, cycle = ClosedLoop(crowd, "turns", 0).run().longest, crowd.experts * (0.3 + 20 * (0.02 + 32 * 0.002))
    assert longest < PATIENCE + cycle


def queue(policy: Policy, experts: str, slots: int = 4) -> FirstCome:
    turns = FirstCome(slots, 1000, 5.0, 4.0)
    turns.policy = policy
    for number, expert in enumerate(experts):
        turns.arrive(Waiting(f"{number:03d}", expert, "key", float(number), 1e9))
    return turns


def steps(turns: FirstCome, experts: str) -> tuple[str, list[str]]:
    """The order in which experts are made ready, and the groups in which requests begin; each group then ends."""
    loads, groups, now = "", [], 1000.0
    while turns.waiting:
        now += 1
        expert = turns.switch(now)
        if expert is not None:
            turns.loaded(expert, 0.1, now)
            loads += expert
        begun = turns.begin(now)
        assert begun
        assert {each.expert for each in begun} == {turns.resident}
        groups.append("".join(each.expert for each in begun))
        for each in begun:
            turns.leave(each.id)
    return loads, groups


def test_requests_begin_as_they_came_and_only_neighbours_run_together() -> None:
    assert steps(queue("first_come", "aabab"), "aabab") == ("abab", ["aa", "b", "a", "b"])


def test_joined_the_oldest_takes_all_of_its_expert_with_it() -> None:
    assert steps(queue("first_come_joined", "aabab"), "aabab") == ("ab", ["aaa", "bb"])


def test_no_more_run_together_than_there_are_slots() -> None:
    assert steps(queue("first_come", "aaaaa", slots=2), "aaaaa")[1] == ["aa", "aa", "a"]


def test_while_one_runs_nobody_behind_another_expert_begins() -> None:
    turns = queue("first_come", "aba")
    turns.loaded("a", 0.1, 10.0)
    assert [each.id for each in turns.begin(10.0)] == ["000"]
    assert turns.begin(11.0) == []
    assert turns.switch(11.0) is None
    turns.leave("000")
    assert turns.switch(12.0) == "b"


@given(st.integers(0, 10_000), st.sampled_from(["turns", "first_come", "first_come_joined"]))
def test_everybody_is_served_under_every_policy(seed: int, policy: Policy) -> None:
    experts = "".join(Random(seed).choices("abc", k=Random(seed).randint(1, 30)))
    _, groups = steps(queue(policy, experts), experts)
    assert sorted("".join(groups)) == sorted(experts)


@given(st.integers(0, 10_000))
def test_first_come_keeps_the_order_of_arrival(seed: int) -> None:
    experts = "".join(Random(seed).choices("abc", k=Random(seed).randint(1, 30)))
    assert "".join(steps(queue("first_come", experts), experts)[1]) == experts
