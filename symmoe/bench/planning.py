"""`symmoe bench plan`: plans of simulated pools with published costs, against simple ways and the lower bound."""

from __future__ import annotations

import heapq
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.executor.dispatch import Dispatch
from symmoe.planning.costs import ExpertCost
from symmoe.planning.problem import Instance, Placement, Problem, Worker, lower_bound
from symmoe.planning.program import solve
from symmoe.planning.scheduling import Schedule, schedule
from symmoe.planning.search import longest_first, round_robin
from symmoe.planning.simulation import AsPredicted, Truth, simulate
from symmoe.types import Assignment, Call, Plan, Query, Rates, Sampling, Step

QUESTIONS, K = 2100, 3
SKEW, SPREAD = 92.0, 6.3
LOAD_SECONDS = (38.0, 47.0)
REQUEST_SECONDS = 1.0
PLAIN_SECONDS = 2.0
PUBLISHED = (16, 4)
SIZES = ((6, 4), (16, 4), (16, 8), (32, 8), (50, 16), (100, 32), (200, 16), (200, 64))
QUICK = ((6, 4), (16, 4))
SOURCES = {
    "skew": "most by least asked expert 92 (MOSAIC, arXiv 2606.03014), geometric between them",
    "spread": "most by least mean tokens 6.3 (MOSAIC), log-uniform between them, independent of popularity",
    "load": "38 to 47 s (MOSAIC, one model on one A100 at a time), uniform between them",
    "questions": "2100, three calls each: the test questions of MMLU-Pro in Symbolic-MoE (arXiv 2503.05641)",
    "request": "mean 1 s of a device: MOSAIC's 2428 s on four devices for 8400 calls is at most 1.16 s, loads included",
    "storage": "assumed: 1 GiB/s for one machine, 8 for all, 3 between machines, 16 GiB a model, 1 s for an adapter",
    "round robin": "experts dealt to devices in order, each whole: MOSAIC's main baseline",
}
CLUSTER_BYTES = 16 << 30
CLUSTER = Rates(alone=1 << 30, storage=8 << 30, link=3 << 30, overhead=0.5, measured=0.0)
"""Assumed, not measured: 1 GiB/s of storage for one machine, 8 GiB/s for all, and 3 GiB/s between machines."""
SWAP_SECONDS = 1.0
"""Assumed: seconds to switch between two adapters of one model."""
CLUSTERS = ((200, 64, 8, 200), (200, 64, 8, 40), (200, 64, 8, 8))
"""Experts, devices, machines and models."""
WAYS = ("as planned", "prefetch", "stealing")
_DRAWS = 4096


@dataclass(frozen=True, slots=True)
class Judged:
    """One simulated pool: its schedule, and in seconds the makespan of each way, the lower bound, and planning."""

    schedule: Schedule
    seconds: dict[str, float]
    bound: float
    planning: float


def simulated_pool(experts: int, devices: int, seed: int) -> Problem:
    """A pool with costs as in `SOURCES`, experts in random order."""
    rng = np.random.default_rng([experts, devices, seed])
    places = np.arange(experts) / max(experts - 1, 1)
    popularity = rng.permutation(SKEW**-places)
    tokens = rng.permutation(SPREAD**places)
    shares = popularity / popularity.sum()
    counts = rng.multinomial(QUESTIONS * K, shares)
    seconds = tokens * (REQUEST_SECONDS / float(tokens @ shares))
    loads = rng.uniform(*LOAD_SECONDS, experts)
    names = [f"expert-{number}" for number in range(experts)]
    costs = {name: ExpertCost(float(loads[n]), float(seconds[n])) for n, name in enumerate(names)}
    requests = {name: int(counts[n]) for n, name in enumerate(names)}
    return Problem(requests, costs, {name: name for name in names}, tuple(Worker() for _ in range(devices)))


def simulated_cluster(experts: int, devices: int, machines: int, seed: int, models: int | None = None) -> Problem:
    """A simulated pool on devices of several machines, which read weights from one storage at the rates of `CLUSTER`.

    Every expert is its own model, or, with `models`, an adapter of one of that many models.
    """
    problem = simulated_pool(experts, devices, seed)
    costs = {
        name: replace(cost, bytes=CLUSTER_BYTES, rates=CLUSTER, swap=SWAP_SECONDS if models else None)
        for name, cost in problem.costs.items()
    }
    of = {name: f"model-{number % (models or experts)}" for number, name in enumerate(problem.models)}
    workers = tuple(Worker(machine=str(device % machines)) for device in range(devices))
    return replace(problem, costs=costs, models=of, workers=workers)


def judge(problem: Problem) -> Judged:
    """Plan a pool in every way, and simulate each plan."""
    instance = Instance(problem)
    began = time.perf_counter()
    ours = schedule(problem)
    planning = time.perf_counter() - began
    longest = longest_first(instance)
    seconds = {
        "symmoe": simulate(ours, problem, AsPredicted(problem)).makespan,
        "round robin": instance.makespan(round_robin(instance)),
        "longest first": instance.makespan(longest),
        "plain program": instance.makespan(_plain(instance, longest)),
    }
    return Judged(ours, seconds, lower_bound(instance), planning)


def measure(
    seeds: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    tell: Callable[[str], None],
    clusters: Sequence[tuple[int, int, int, int]] = (),
) -> dict[str, Any]:
    """The report of `symmoe bench plan`: medians and worst over seeds for every size, and plans with wrong costs.

    `sizes` are pairs of experts and devices, which must contain `PUBLISHED`; `clusters` are as in `CLUSTERS`. `tell` is
    called with the current step.
    """
    cases: list[dict[str, Any]] = []
    for experts, devices in sizes:
        tell(f"{experts} experts, {devices} devices")
        cases.append(_case(experts, devices, [judge(simulated_pool(experts, devices, seed)) for seed in seeds]))
    tell("plans gone wrong")
    published = next(case for case in cases if (case["experts"], case["devices"]) == PUBLISHED)
    round_robin_ratio = published["times_ours"]["round robin"]
    proved = [case["proved"] for case in cases if case["proved"]["pools"]]
    greatest = max(cases, key=lambda case: case["experts"] * case["devices"])
    return {
        "settings": {"questions": QUESTIONS, "k": K, "seeds": list(seeds), "sources": SOURCES},
        "cases": cases,
        "bars": {
            "over_bound_where_proved": {
                **_bar(max(p["over_bound"] for p in proved) if proved else None, 1.05),
                "pools": sum(p["pools"] for p in proved),
            },
            "over_bound_anywhere": _bar(max(c["over_bound"]["symmoe"]["worst"] for c in cases), 1.05),
            "round_robin_over_ours_published_median": _bar(round_robin_ratio["median"], 1.5, least=True),
            "round_robin_over_ours_published_worst": _bar(round_robin_ratio["least"], 1.5, least=True),
            "planning_seconds_greatest": _bar(greatest["planning_seconds"]["worst"], 1.0),
        },
        "gone_wrong": _misestimated(seeds),
        "gathering": [_gathering(seeds, cluster, tell) for cluster in clusters],
    }


def _gathering(seeds: Sequence[int], cluster: tuple[int, int, int, int], tell: Callable[[str], None]) -> dict[str, Any]:
    """Plans in which machines read a model once between them, against plans without it.

    Compares the makespan, the sum of busy seconds, and the makespan under noise, where idle devices take over work.
    """
    experts, devices, machines, models = cluster
    tell(f"{experts} experts of {models} models, {devices} devices of {machines} machines")
    rows = []
    for seed in seeds:
        problem = simulated_cluster(experts, devices, machines, seed, models if models < experts else None)
        apart = replace(problem, workers=tuple(Worker() for _ in problem.workers))
        plain = schedule(apart, 0)
        began = time.perf_counter()
        found = schedule(problem, 0)
        planning = time.perf_counter() - began
        truth = Noisy(problem, seed)
        rows.append(
            {
                "to_plain": found.makespan / plain.makespan,
                "busy_to_plain": sum(found.seconds) / sum(plain.seconds),
                "noisy_to_plain": dispatched(found, problem, truth) / dispatched(plain, apart, truth),
                "loads": len(found.joint),
                "workers": sum(len(load.places) for load in found.joint),
                "waited_seconds": sum(load.waited for load in found.joint),
                "saved_seconds": sum(load.saved * len(load.places) for load in found.joint),
                "planning_seconds": planning,
            }
        )
    figures = {name: _spread([row[name] for row in rows]) for name in rows[0]}
    sizes = {"experts": experts, "models": models, "devices": devices, "machines": machines, "pools": len(rows)}
    return {**sizes, **figures}


def _plain(instance: Instance, longest: Placement) -> Placement:
    """Each expert whole on one device, by the integer program, else `longest` if it finds nothing shorter in time."""
    found = solve(instance, instance.makespan(longest), PLAIN_SECONDS, split=False).placement
    return longest if found is None else min(found, longest, key=instance.makespan)


def _case(experts: int, devices: int, judged: Sequence[Judged]) -> dict[str, Any]:
    ways = list(judged[0].seconds)
    proved = [each for each in judged if each.schedule.optimal]
    times_ours = {way: [each.seconds[way] / each.seconds["symmoe"] for each in judged] for way in ways[1:]}
    return {
        "experts": experts,
        "devices": devices,
        "seconds": {way: round(median(each.seconds[way] for each in judged), 1) for way in ways},
        "bound_seconds": round(median(each.bound for each in judged), 1),
        "over_bound": {way: _spread([each.seconds[way] / each.bound for each in judged]) for way in ways},
        "times_ours": {
            way: {"median": round(median(found), 4), "least": round(min(found), 4)} for way, found in times_ours.items()
        },
        "planning_seconds": _spread([each.planning for each in judged]),
        "loads": round(median(sum(map(len, each.schedule.shares)) for each in judged)),
        "by_program": sum(each.schedule.method == "program" for each in judged),
        "proved": {
            "pools": len(proved),
            "over_bound": round(max(e.seconds["symmoe"] / e.bound for e in proved), 4) if proved else None,
        },
    }


def _misestimated(seeds: Sequence[int]) -> dict[str, Any]:
    """The published pool with costs other than planned, also with one slow device: makespans by the planned one."""
    found: dict[str, dict[str, Any]] = {}
    for name, slow in (("noise", {}), ("noise and one slow device", {0: 2.0})):
        ratios_by_way: dict[str, list[float]] = {way: [] for way in WAYS}
        for problem, planned, seed in _published(seeds):
            truth = Noisy(problem, seed, slow=slow)
            played = {
                "as planned": simulate(planned, problem, truth).makespan,
                "prefetch": simulate(planned, problem, truth, prefetch=True).makespan,
                "stealing": dispatched(planned, problem, truth),
            }
            for way, seconds in played.items():
                ratios_by_way[way].append(seconds / planned.makespan)
        found[name] = {way: _spread(ratios) for way, ratios in ratios_by_way.items()}
    return found


def dispatched(planned: Schedule, problem: Problem, truth: Truth) -> float:
    """Seconds until the last worker is done if `Dispatch` assigns the work, so that idle workers take over some."""
    plan = Plan(tuple(_steps(planned)))
    resident: list[str | None] = [worker.resident or None for worker in problem.workers]
    left: dict[int, tuple[str, deque[Call]]] = {}
    idle, events, now = set(range(len(resident))), list[tuple[float, int]](), 0.0
    dispatch = Dispatch(plan, len(problem.workers), problem.costs, models=problem.models, clock=lambda: now)
    while True:
        for worker, step in dispatch.begin(sorted(idle)):
            idle.remove(worker)
            left[worker] = step.expert, deque(step.calls)
            loading = 0.0 if step.expert == resident[worker] else truth.load(worker, step.expert, resident[worker])
            if (joint := dispatch.joint(worker)) is not None:
                loading = max(loading - planned.joint[joint.number].saved, 0.0)
            resident[worker] = None  # until it is loaded
            heapq.heappush(events, (now + loading, worker))
        if not events:
            return now
        now, worker = heapq.heappop(events)
        expert, calls = left[worker]
        if resident[worker] is None:
            resident[worker] = expert
            dispatch.loaded(worker)
        else:
            dispatch.delivered(worker, calls.popleft())
        if calls:
            heapq.heappush(events, (now + truth.request(worker, expert, int(calls[0].query.id)), worker))
        else:
            dispatch.finished(worker)
            idle.add(worker)


def _steps(planned: Schedule) -> Iterator[Step]:
    """The schedule as steps of calls; the id of a call's query is the number of the request."""
    numbered: Counter[str] = Counter()
    for worker, shares in enumerate(planned.shares):
        for place, share in enumerate(shares):
            numbers = range(numbered[share.expert], numbered[share.expert] + share.requests)
            numbered[share.expert] += share.requests
            queries = [Query(str(number), (), Sampling(1)) for number in numbers]
            calls = (Call(share.expert, query, (Assignment(query.id, share.expert, 0),)) for query in queries)
            number = planned.joint_at.get((worker, place))
            joint = None if number is None else planned.joint[number].joint(number)
            yield Step(share.expert, tuple(calls), worker, joint)


class Noisy:
    """Actual times that differ from predicted ones by log-normal factors, with slow workers.

    `experts`, `requests` and `loads` are standard deviations of the factors' logarithms: `experts` of a factor for each
    expert, as a cost model errs that has seen other questions, the other two of a factor for each request and load.
    `slow` gives a further factor for single workers. Otherwise a request takes the same time on every worker.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        experts: float = 0.2,
        requests: float = 0.5,
        loads: float = 0.2,
        slow: Mapping[int, float] | None = None,
    ) -> None:
        self._problem, self._seed, self._slow = problem, seed, dict(slow or {})
        self._spreads = (experts, requests, loads)
        self._draws: dict[str, NDArray[np.float64]] = {}

    def load(self, worker: int, expert: str, after: str | None) -> float:
        """Seconds to load an expert."""
        factor = self._factors(expert)[-1 - worker % _DRAWS]
        return self._problem.load(expert, after) * float(factor) * self._slow.get(worker, 1.0)

    def request(self, worker: int, expert: str, number: int) -> float:
        """Seconds of one request."""
        factor = self._factors(expert)[number % _DRAWS]
        return self._problem.costs[expert].request * float(factor) * self._slow.get(worker, 1.0)

    def _factors(self, expert: str) -> NDArray[np.float64]:
        """An expert's factors: for requests by number, then for loads, the first worker's last."""
        if expert not in self._draws:
            rng = np.random.default_rng([self._seed, zlib.crc32(expert.encode())])
            experts, requests, loads = self._spreads
            answers = _lognormal(rng, requests, _DRAWS) * _lognormal(rng, experts, 1)
            self._draws[expert] = np.concatenate([answers, _lognormal(rng, loads, _DRAWS)])
        return self._draws[expert]


def _lognormal(rng: np.random.Generator, spread: float, count: int) -> NDArray[np.float64]:
    """Factors with mean one."""
    return np.asarray(rng.lognormal(-(spread**2) / 2, spread, count))


def _published(seeds: Sequence[int]) -> Iterator[tuple[Problem, Schedule, int]]:
    for seed in seeds:
        problem = simulated_pool(*PUBLISHED, seed)
        yield problem, schedule(problem), seed


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 4), "worst": round(max(values), 4)}


def _bar(value: float | None, bar: float, least: bool = False) -> dict[str, Any]:
    met = None if value is None else value >= bar if least else value <= bar
    return {"measured": value, "bar": bar, "met": met}
