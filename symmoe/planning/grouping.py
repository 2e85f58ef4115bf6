"""Grouping a batch by expert (Symbolic-MoE §3.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from symmoe.planning.scheduling import schedule
from symmoe.planning.spreading import Fleet, problem_of, spread
from symmoe.types import Assignment, Call, Message, Plan, Query, Recruitment, Sampling, Step

_CallKey = tuple[tuple[Message, ...], Sampling]


def plan(
    queries: Sequence[Query],
    recruitments: Sequence[Recruitment],
    models: Mapping[str, str],
    done: Collection[Assignment] = (),
    seed: int = 0,
    fleet: Fleet | None = None,
) -> Plan:
    """The stage: one step for each recruited expert, holding all its calls; divided among a fleet of several workers.

    `models` maps every expert of the pool to its model: experts of one model stand together, because changing between
    them is cheap, and otherwise keep the pool's order. Assignments in `done` are left out. Greedy calls with equal
    prompts are made once and serve every assignment that asked; sampled ones have the
    seed that their request names, else one of their own, whichever worker
    makes them.
    """
    finished = set(done)
    asked: dict[str, dict[_CallKey, tuple[Query, list[Assignment]]]] = {}
    for query, recruitment in zip(queries, recruitments, strict=True):
        for assignment in recruitment.assignments:
            if assignment not in finished:
                worded = _reseeded(query, assignment, seed)
                calls = asked.setdefault(assignment.expert, {})
                calls.setdefault((worded.messages, worded.sampling), (worded, []))[1].append(assignment)
    order = list(dict.fromkeys(models.values()))
    names = sorted(models, key=lambda expert: order.index(models[expert]))
    whole = Plan(tuple(Step(name, _calls(name, asked[name])) for name in names if name in asked))
    if fleet is None or len(fleet.workers) == 1:
        return whole
    return spread(whole, schedule(problem_of(whole, recruitments, models, fleet), fleet.program_seconds))


def _calls(expert: str, asked: Mapping[_CallKey, tuple[Query, list[Assignment]]]) -> tuple[Call, ...]:
    return tuple(Call(expert, query, tuple(serves)) for query, serves in asked.values())


def _reseeded(query: Query, assignment: Assignment, seed: int) -> Query:
    if query.sampling.temperature == 0:
        return query
    return replace(query, sampling=replace(query.sampling, seed=_own_seed(query, assignment, seed)))


def _own_seed(query: Query, assignment: Assignment, seed: int) -> int:
    """The request's own seed, and another for each further draw of one expert; without one, a seed that no other draw
    of the run has.
    """
    own = query.sampling.seed
    if own is not None and assignment.slot == 0:
        return own
    text = f"{seed}/{query.id}/{assignment.expert}/{assignment.slot}" if own is None else f"{own}/{assignment.slot}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
