"""Grouping requests by expert, against serving them as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from symmoe.config import Pool
from symmoe.errors import EngineError, RequestError

from ..settings import Settings
from ..worker import Build
from .crowd import crowd
from .first_come import FirstCome, Policy
from .in_process import serving_here
from .load import Ask, closed
from .machine import taking
from .questions import texts
from .services import Side
from .summary import best, longest_wait, summary

TARGET = 3.0
POLICIES: tuple[Policy, ...] = ("turns", "first_come", "first_come_joined")
_PATIENT = 600.0


@dataclass(frozen=True, slots=True)
class GroupingLoad:
    """How many experts are asked at random, by how many clients at once, and how often in each round."""

    experts: int = 8
    clients: int = 64
    requests: int = 128
    max_tokens: int = 48
    rounds: int = 1
    seed: int = 0


def measure_grouping(
    pool: Pool, load: GroupingLoad, build: Build, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Answers per second under each policy, on one engine, of one load, in one run; `times` is ours over the others.

    The service bears longer waits than it would, so that no policy turns anybody away. Policies are asked in turn, the
    order reversed in every second round, with questions of their own in each round, equal for all; the least disturbed
    round of each counts. Raises `RequestError` where the pool is too small, `EngineError` if a request has no answer.
    """
    experts = [expert.name for expert in pool.experts if expert.remote is None][: load.experts]
    if len(experts) < 2:
        raise RequestError(f"pool {pool.name!r} has {len(experts)} expert to group by", code="too_few_experts")
    made: list[FirstCome] = []

    def make(slots: int, most: int, patience: float, amortise: float) -> FirstCome:
        made.append(FirstCome(slots, most, patience, amortise))
        return made[0]

    settings = replace(Settings(), longest_wait=_PATIENT, deadline=_PATIENT)
    rows: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
    with serving_here(pool, settings, build, make) as side:
        tell("making every expert ready once")
        _answered(side, experts, texts(pool, len(experts), load.seed + 999), replace(load, clients=2))
        for number in range(load.rounds):
            for policy in POLICIES if number % 2 == 0 else POLICIES[::-1]:
                tell(f"round {number + 1} of {load.rounds}, {policy.replace('_', ' ')}")
                made[0].policy = policy
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
    with taking({"service": side.pids}) as taken:
        outcomes = crowd(side.url, closed(asks, load.clients))
    failed = next((outcome for outcome in outcomes if outcome.kind != "answer"), None)
    if failed is not None:
        raise EngineError(f"a request was not answered: {failed.why or failed.kind}")
    return summary(outcomes) | {"longest_wait": longest_wait(outcomes)} | taken.figures
