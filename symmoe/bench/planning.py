"""How good plans are: simulated pools with published costs, against simple ways and the lower bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from symmoe.planning.baselines import longest_first, round_robin
from symmoe.planning.bound import lower_bound
from symmoe.planning.costs import ExpertCost
from symmoe.planning.problem import Instance, Placement, Problem, Worker
from symmoe.planning.program import solve
from symmoe.planning.scheduling import Schedule, schedule
from symmoe.planning.simulation import Stealing, simulate
from symmoe.planning.truth import AsPredicted, Noisy

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
    "round robin": "experts dealt to devices in order, each whole: MOSAIC's main baseline",
}
WAYS: dict[str, tuple[bool, Stealing]] = {
    "as planned": (False, "none"),
    "prefetch": (True, "none"),
    "stealing steps": (False, "steps"),
    "stealing requests": (False, "requests"),
    "prefetch and stealing requests": (True, "requests"),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One simulated pool: its schedule, each way's seconds by name, the lower bound, and how long planning took."""

    schedule: Schedule
    seconds: dict[str, float]
    bound: float
    planning: float


def simulated_pool(experts: int, devices: int, seed: int) -> Problem:
    """A pool with published costs, as `SOURCES` says, experts in random order."""
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


def judge(problem: Problem) -> Judged:
    """Plan a pool in every way."""
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


def measure(seeds: Sequence[int], sizes: Sequence[tuple[int, int]], tell: Callable[[str], None]) -> dict[str, Any]:
    """The report of `symmoe bench plan`: every size under every seed, medians and worst, and plans gone wrong.

    `sizes` are experts and devices, `PUBLISHED` among them; `tell` hears what is at work.
    """
    cases: list[dict[str, Any]] = []
    for experts, devices in sizes:
        tell(f"{experts} experts, {devices} devices")
        cases.append(_case(experts, devices, [judge(simulated_pool(experts, devices, seed)) for seed in seeds]))
    tell("plans gone wrong")
    published = next(case for case in cases if (case["experts"], case["devices"]) == PUBLISHED)
    dealt = published["times_ours"]["round robin"]
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
            "round_robin_over_ours_published_median": _bar(dealt["median"], 1.5, least=True),
            "round_robin_over_ours_published_worst": _bar(dealt["least"], 1.5, least=True),
            "planning_seconds_greatest": _bar(greatest["planning_seconds"]["worst"], 1.0),
        },
        "gone_wrong": _gone_wrong(seeds),
    }


def _plain(instance: Instance, longest: Placement) -> Placement:
    """Each expert whole on one device, by the integer program; longest-first where it finds nothing shorter in time."""
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


def _gone_wrong(seeds: Sequence[int]) -> dict[str, Any]:
    """The published pool with costs that are not those planned for, and with one device at half its speed."""
    found: dict[str, dict[str, Any]] = {}
    for name, slow in (("noise", {}), ("noise and one slow device", {0: 2.0})):
        ends: dict[str, list[float]] = {way: [] for way in WAYS}
        for problem, planned, seed in _published(seeds):
            truth = Noisy(problem, seed, slow=slow)
            for way, (prefetch, stealing) in WAYS.items():
                ends[way].append(simulate(planned, problem, truth, prefetch, stealing).makespan / planned.makespan)
        found[name] = {way: _spread(ratios) for way, ratios in ends.items()}
    return found


def _published(seeds: Sequence[int]) -> Iterator[tuple[Problem, Schedule, int]]:
    for seed in seeds:
        problem = simulated_pool(*PUBLISHED, seed)
        yield problem, schedule(problem), seed


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 4), "worst": round(max(values), 4)}


def _bar(value: float | None, bar: float, least: bool = False) -> dict[str, Any]:
    met = None if value is None else value >= bar if least else value <= bar
    return {"measured": value, "bar": bar, "met": met}
