"""The way of a question: tag, recruit, plan, generate, gate, aggregate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from symmoe.aggregation.vote import aggregate
from symmoe.gating.evidence import weigh
from symmoe.planning.grouping import plan
from symmoe.planning.observing import StepTimes
from symmoe.planning.spreading import Fleet
from symmoe.protocols import Aggregator, Executor, Gate, Recruiter, Tagger
from symmoe.routing.recruiting import recruit
from symmoe.routing.tagging import tag
from symmoe.types import (
    Answer,
    Assignment,
    Candidate,
    Explanation,
    Load,
    Observation,
    Outcome,
    Plan,
    Query,
    Recruitment,
    Skills,
    Trace,
    Verdict,
)

STAGES = ("tag", "recruit", "plan", "load", "generate", "gate", "aggregate")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a pipeline runs on. `models` maps each expert, in the pool's order, to its model.

    `fleet` describes the executor's workers and what experts cost there, where there is more than one.
    """

    tagger: Tagger
    recruiter: Recruiter
    executor: Executor
    gate: Gate
    aggregator: Aggregator
    models: Mapping[str, str]
    fleet: Fleet | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """What a run tells while it goes on. `candidates` is called before anything relies on them: persist them there."""

    planned: Callable[[Plan], None] = lambda plan: None
    loaded: Callable[[Load], None] = lambda load: None
    candidates: Callable[[Sequence[Candidate]], None] = lambda candidates: None


def answer(
    parts: Parts,
    queries: Sequence[Query],
    k: int,
    seed: int,
    known: Sequence[Candidate] = (),
    watch: Watch = Watch(),
    explain: bool = False,
) -> Outcome:
    """Answer queries with distinct ids; results come in their order.

    `known` are candidates of an earlier, unfinished run with the same queries, k and seed, which are kept. With
    `explain` every trace says why its experts were chosen.
    """
    clock = _Clock()
    with clock("plan"):
        refusals = parts.executor.refuse(queries)
        accepted = [query for query, refusal in zip(queries, refusals, strict=True) if refusal is None]
    with clock("tag"):
        skills = tag(parts.tagger, accepted)
    with clock("recruit"):
        recruitments = recruit(parts.recruiter, accepted, skills, k, seed)
    with clock("plan"):
        kept = {_assignment(candidate): candidate for candidate in known}
        steps = plan(accepted, recruitments, parts.models, kept, seed, parts.fleet)
        watch.planned(steps)
    loads, observations = _generate(parts.executor, steps, kept, clock, watch)
    with clock("gate"):
        candidates = [[kept[assignment] for assignment in r.assignments] for r in recruitments]
        verdicts = weigh(parts.gate, accepted, candidates, recruitments)
    with clock("aggregate"):
        answers = aggregate(parts.aggregator, accepted, candidates, verdicts)
    explained = [
        parts.recruiter.explain(query, needed, k, seed) if explain else None
        for query, needed in zip(accepted, skills, strict=True)
    ]
    traces = map(_trace, skills, recruitments, candidates, verdicts, answers, explained)
    results = tuple(refusal or next(traces) for refusal in refusals)
    return Outcome(results, tuple(loads), clock.seconds, observations)


def _generate(
    executor: Executor, steps: Plan, kept: dict[Assignment, Candidate], clock: _Clock, watch: Watch
) -> tuple[list[Load], tuple[Observation, ...]]:
    """Run the plan, adding each candidate to `kept`; what was loaded, and what loads and steps took."""
    loads: list[Load] = []
    times = StepTimes()
    began = time.perf_counter()
    for event in executor.run(steps):
        if isinstance(event, Load):
            loads.append(event)
            times.load(event)
            watch.loaded(event)
        else:
            times.candidates(event)
            watch.candidates(event)
            kept.update((_assignment(candidate), candidate) for candidate in event)
    loading = sum(load.seconds for load in loads)
    clock.add("load", loading)
    clock.add("generate", time.perf_counter() - began - loading)
    return loads, times.observations()


def _trace(
    skills: Skills,
    recruitment: Recruitment,
    candidates: list[Candidate],
    verdicts: list[Verdict],
    given: Answer,
    explanation: Explanation | None,
) -> Trace:
    return Trace(
        query_id=recruitment.query_id,
        skills=skills.matches,
        shares=recruitment.shares,
        recruited=tuple(assignment.expert for assignment in recruitment.assignments),
        candidates=tuple(candidates),
        verdicts=tuple(verdicts),
        answer=given,
        facets=skills.facets,
        explanation=explanation,
    )


def _assignment(candidate: Candidate) -> Assignment:
    return Assignment(candidate.query_id, candidate.expert, candidate.slot)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] += seconds

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - began)
