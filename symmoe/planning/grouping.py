"""Grouping a batch by expert (Symbolic-MoE §3.3), and dividing its steps among workers."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from symmoe.planning.costs import ExpertCost
from symmoe.planning.problem import Problem, Worker
from symmoe.planning.scheduling import PROGRAM_SECONDS, Schedule, asked_together, schedule
from symmoe.protocols import Standing
from symmoe.types import Assignment, Call, Message, Plan, Query, Recruitment, Sampling, Step

_CallKey = tuple[tuple[Message, ...], Sampling]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that share a plan, the costs of every expert of the pool, and the expert that aggregates, if any.

    `program_seconds` bounds the integer program, as in `schedule`. `standing` returns for each worker the expert that
    is ready, those before it whose engines sleep, and its machine; without it `workers` are taken as given.
    """

    workers: tuple[Worker, ...]
    costs: Mapping[str, ExpertCost]
    aggregator: str | None = None
    program_seconds: float = PROGRAM_SECONDS
    standing: Callable[[], Sequence[Standing]] | None = None

    def now(self, models: Mapping[str, str]) -> tuple[Worker, ...]:
        """The workers in their current state. `models` maps every expert of the pool to its model."""
        if self.standing is None:
            return self.workers
        return tuple(
            replace(worker, resident=resident, asleep=frozenset(models[each] for each in before), machine=machine)
            for worker, (resident, before, machine) in zip(self.workers, self.standing(), strict=True)
        )


def problem_of(whole: Plan, recruitments: Sequence[Recruitment], models: Mapping[str, str], fleet: Fleet) -> Problem:
    """The scheduling problem of a plan that has one whole step for each expert."""
    requests = {step.expert: len(step.calls) for step in whole.steps}
    pair_counts = asked_together(recruitments, fleet.aggregator)
    return Problem(requests, fleet.costs, models, fleet.now(models), pair_counts)


def spread(whole: Plan, schedule: Schedule) -> Plan:
    """The plan with its steps divided as a schedule says: worker by worker, each worker's steps in order of execution.

    When an expert is split, a worker gets by preference the calls whose questions also go to its other experts.
    """
    homes: dict[str, dict[int, int]] = defaultdict(dict)
    for worker, shares in enumerate(schedule.shares):
        for share in shares:
            homes[share.expert][worker] = share.requests
    experts_asked: dict[str, set[str]] = defaultdict(set)
    for step in whole.steps:
        for call in step.calls:
            for assignment in call.serves:
                experts_asked[assignment.query_id].add(step.expert)
    divided = {step.expert: _divided(step.calls, homes, experts_asked) for step in whole.steps}
    joints = [load.joint(number) for number, load in enumerate(schedule.joint)]
    joint = {at: joints[number] for at, number in schedule.joint_at.items()}
    return Plan(
        tuple(
            Step(share.expert, divided[share.expert][worker], worker, joint.get((worker, place)))
            for worker, shares in enumerate(schedule.shares)
            for place, share in enumerate(shares)
        )
    )


def _divided(
    calls: Sequence[Call], homes: Mapping[str, Mapping[int, int]], experts_asked: Mapping[str, set[str]]
) -> dict[int, tuple[Call, ...]]:
    """One expert's calls by worker, as many as its shares say, in their order."""
    room = dict(homes[calls[0].expert])
    if len(room) == 1:
        return {worker: tuple(calls) for worker in room}
    liked = sorted(
        (-_company(call, worker, homes, experts_asked), place, worker)
        for place, call in enumerate(calls)
        for worker in room
    )
    worker_of: dict[int, int] = {}
    for _, place, worker in liked:
        if place not in worker_of and room[worker]:
            worker_of[place] = worker
            room[worker] -= 1
    return {worker: tuple(call for place, call in enumerate(calls) if worker_of[place] == worker) for worker in room}


def _company(
    call: Call, worker: int, homes: Mapping[str, Mapping[int, int]], experts_asked: Mapping[str, set[str]]
) -> float:
    """How many of the other experts of a call's questions run on a worker; of a split one the part that does."""
    others = {expert for assignment in call.serves for expert in experts_asked[assignment.query_id]} - {call.expert}
    return sum(homes[other].get(worker, 0) / sum(homes[other].values()) for other in sorted(others))


def in_order(models: Mapping[str, str], asked: Collection[str], resident: str = "") -> list[str]:
    """The experts that are asked, in the order in which one worker loads them, as `plan` says."""
    order = list(dict.fromkeys(models.values()))
    names = [name for name in sorted(models, key=lambda expert: order.index(models[expert])) if name in asked]
    if resident in names:
        place = names.index(resident)
        names = names[place:] + names[:place][::-1]
    return names


def plan(
    queries: Sequence[Query],
    recruitments: Sequence[Recruitment],
    models: Mapping[str, str],
    done: Collection[Assignment] = (),
    seed: int = 0,
    fleet: Fleet | None = None,
    most_tokens: Mapping[str, int] | None = None,
    resident: str = "",
) -> Plan:
    """One step for each recruited expert, holding all its calls; divided over the workers if the fleet has several.

    `models` maps every expert of the pool to its model. Experts of one model stand together, because changing between
    them is cheap; otherwise the pool's order is kept. Assignments in `done` are left out. Greedy calls with equal
    prompts are made once and serve every assignment that asked; each sampled call has the seed that its request names,
    or one of its own that does not depend on the worker. `most_tokens` bounds what some experts write, whatever was
    asked for. The `resident` expert, which is ready, comes first, then those after it, then those before it in reverse,
    so that consecutive windows of a job need the fewest loads.
    """
    finished, bounds = set(done), most_tokens or {}
    by_expert: dict[str, dict[_CallKey, tuple[Query, list[Assignment]]]] = {}
    for query, recruitment in zip(queries, recruitments, strict=True):
        for assignment in recruitment.assignments:
            if assignment not in finished:
                worded = _bounded(_reseeded(query, assignment, seed), bounds.get(assignment.expert))
                calls = by_expert.setdefault(assignment.expert, {})
                calls.setdefault((worded.messages, worded.sampling), (worded, []))[1].append(assignment)
    names = in_order(models, by_expert, resident)
    whole = Plan(tuple(Step(name, _calls(name, by_expert[name])) for name in names))
    if fleet is None or len(fleet.workers) == 1:
        return whole
    return spread(whole, schedule(problem_of(whole, recruitments, models, fleet), fleet.program_seconds))


def _calls(expert: str, entries: Mapping[_CallKey, tuple[Query, list[Assignment]]]) -> tuple[Call, ...]:
    return tuple(Call(expert, query, tuple(serves)) for query, serves in entries.values())


def _reseeded(query: Query, assignment: Assignment, seed: int) -> Query:
    if query.sampling.temperature == 0:
        return query
    return replace(query, sampling=replace(query.sampling, seed=_own_seed(query, assignment, seed)))


def _bounded(query: Query, most: int | None) -> Query:
    if most is None or query.sampling.max_tokens <= most:
        return query
    return replace(query, sampling=replace(query.sampling, max_tokens=most))


def _own_seed(query: Query, assignment: Assignment, seed: int) -> int:
    """The request's own seed, and another for each further draw of one expert; without one, a seed that no other draw
    of the run has.
    """
    base = query.sampling.seed
    if base is not None and assignment.slot == 0:
        return base
    text = f"{seed}/{query.id}/{assignment.expert}/{assignment.slot}" if base is None else f"{base}/{assignment.slot}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
