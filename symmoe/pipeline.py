"""The way of a question: tag, recruit, plan, generate, gate, aggregate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from symmoe.aggregation.cases import Case, no_answer
from symmoe.aggregation.cleaning import encodable
from symmoe.aggregation.synthesis import Decision, Settled, Synthesis, decide, settle
from symmoe.aggregation.vote import aggregate
from symmoe.errors import CapacityError, CheckpointError, EngineError
from symmoe.gating.evidence import weigh
from symmoe.planning.costs import StepTimes
from symmoe.planning.grouping import Fleet, plan
from symmoe.protocols import Aggregator, Executor, Gate, Recruiter, Tagger
from symmoe.routing.recruiting import recruit
from symmoe.routing.tagging import tag
from symmoe.types import (
    Assignment,
    Candidate,
    Explanation,
    Load,
    Observation,
    Outcome,
    Plan,
    Query,
    Recruitment,
    Refusal,
    Skills,
    Trace,
    Verdict,
)

STAGES = ("tag", "recruit", "plan", "load", "generate", "gate", "aggregate")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a pipeline runs on. `models` maps each expert, in the pool's order, to its model.

    `fleet` describes the executor's workers and what experts cost there, where there is more than one. Without
    `synthesis` every answer is the vote's.
    """

    tagger: Tagger
    recruiter: Recruiter
    executor: Executor
    gate: Gate
    aggregator: Aggregator
    models: Mapping[str, str]
    fleet: Fleet | None = None
    synthesis: Synthesis | None = None


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
    `explain` every trace says why its experts were chosen. A query of which every candidate failed becomes a refusal.
    """
    clock = _Clock()
    work = _Work(parts, seed, clock, watch, known)
    with clock("plan"):
        refusals = parts.executor.refuse(queries)
        accepted = [query for query, refusal in zip(queries, refusals, strict=True) if refusal is None]
    with clock("tag"):
        skills = tag(parts.tagger, accepted)
    with clock("recruit"):
        recruitments = recruit(parts.recruiter, accepted, skills, k, seed)
    work.run(accepted, recruitments, "generate")
    with clock("gate"):
        candidates = [[work.kept[assignment] for assignment in r.assignments] for r in recruitments]
        verdicts = weigh(parts.gate, accepted, candidates, recruitments)
    settled = _settled(parts, work, accepted, candidates, verdicts)
    explained = [
        parts.recruiter.explain(query, needed, k, seed) if explain else None
        for query, needed in zip(accepted, skills, strict=True)
    ]
    traces = map(_result, skills, recruitments, settled, explained)
    results = tuple(refusal or next(traces) for refusal in refusals)
    return Outcome(results, tuple(work.loads), clock.seconds, tuple(work.observations))


def _settled(
    parts: Parts,
    work: _Work,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[Candidate]],
    verdicts: Sequence[Sequence[Verdict]],
) -> list[Settled | Refusal]:
    """An answer to every query, or that there is none: by the vote, and by aggregators where it is not enough."""
    with work.clock("aggregate"):
        unanswered = [no_answer(query, given) for query, given in zip(queries, candidates, strict=True)]
        rows = [
            row
            for row, refusal in zip(zip(queries, candidates, verdicts, strict=True), unanswered, strict=True)
            if refusal is None
        ]
        voted = aggregate(parts.aggregator, [q for q, _, _ in rows], [c for _, c, _ in rows], [v for _, _, v in rows])
        cases = [Case(q, tuple(c), tuple(v), a) for (q, c, v), a in zip(rows, voted, strict=True)]
    answered = iter(_synthesised(parts.synthesis, parts.executor, work, cases))
    return [refusal or next(answered) for refusal in unanswered]


def _synthesised(synthesis: Synthesis | None, executor: Executor, work: _Work, cases: Sequence[Case]) -> list[Settled]:
    """Cases as the vote left them, or as an aggregator answered; those that need one are grouped like expert work."""
    if synthesis is None:
        return [Settled(case, case.voted) for case in cases]
    with work.clock("aggregate"):
        decisions = decide(synthesis, cases, work.seed, executor.refuse)
        asked = [(d.prompt.query, d.recruitment) for d in decisions if d.prompt]
    trouble = ""
    if asked:
        try:
            work.run([query for query, _ in asked], [recruitment for _, recruitment in asked], "aggregate")
        except (EngineError, CheckpointError, CapacityError) as error:  # the candidates are there already
            trouble = f"the aggregator could not run: {error}"
    with work.clock("aggregate"):
        return [settle(d, work.said(d), trouble, synthesis.clusters) for d in decisions]


def _result(
    skills: Skills, recruitment: Recruitment, settled: Settled | Refusal, explanation: Explanation | None
) -> Trace | Refusal:
    if isinstance(settled, Refusal):
        return settled
    return Trace(
        query_id=recruitment.query_id,
        skills=skills.matches,
        shares=recruitment.shares,
        recruited=tuple(assignment.expert for assignment in recruitment.assignments),
        candidates=settled.case.candidates,
        verdicts=settled.case.verdicts,
        answer=settled.answer,
        facets=skills.facets,
        explanation=explanation,
        consensus=settled.consensus,
        synthesis=settled.synthesis,
    )


def _assignment(candidate: Candidate) -> Assignment:
    return Assignment(candidate.query_id, candidate.expert, candidate.slot)


class _Work:
    """What experts did in a run: candidates by assignment, and what loads and steps took."""

    def __init__(self, parts: Parts, seed: int, clock: _Clock, watch: Watch, known: Sequence[Candidate]) -> None:
        self.seed, self.clock = seed, clock
        self._parts, self._watch = parts, watch
        self.kept = {_assignment(candidate): _encodable(candidate) for candidate in known}
        self.loads: list[Load] = []
        self.observations: list[Observation] = []

    def run(self, queries: Sequence[Query], recruitments: Sequence[Recruitment], stage: str) -> None:
        """Plan what is not there yet and run it; its seconds count for `stage`, but for those of loading.

        Of several workers, which load side by side, it is their mean that counts for loading.
        """
        with self.clock("plan"):
            parts = self._parts
            steps = plan(queries, recruitments, parts.models, self.kept, self.seed, parts.fleet)
            self._watch.planned(steps)
        times, loading, began = StepTimes(), 0.0, time.perf_counter()
        try:
            for event in self._parts.executor.run(steps):
                if isinstance(event, Load):
                    loading += event.seconds
                    times.load(event)
                    self.loads.append(event)
                    self._watch.loaded(event)
                else:
                    times.candidates(event)
                    self._keep([_encodable(candidate) for candidate in event])
        finally:
            loading /= len(parts.fleet.workers) if parts.fleet else 1
            self.clock.add("load", loading)
            self.clock.add(stage, time.perf_counter() - began - loading)
            self.observations += times.observations()

    def said(self, decision: Decision) -> Candidate | None:
        """What the aggregator of a decided case said, if it was asked and came to it."""
        return self.kept.get(decision.recruitment.assignments[0]) if decision.prompt else None

    def _keep(self, candidates: list[Candidate]) -> None:
        self._watch.candidates(candidates)
        self.kept.update((_assignment(candidate), candidate) for candidate in candidates)


def _encodable(candidate: Candidate) -> Candidate:
    """The candidate as it can be written to a file, whatever an engine gave."""
    text = encodable(candidate.text)
    return candidate if text == candidate.text else replace(candidate, text=text)


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
