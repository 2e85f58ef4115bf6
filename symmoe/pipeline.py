"""A batch on its way: every question as `answering` has it, in waves so that each expert is loaded once a wave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from symmoe.aggregation.cases import Case
from symmoe.aggregation.synthesis import Settled, Synthesis
from symmoe.aggregation.verifier import Verifying
from symmoe.answering import (
    Ask,
    Given,
    Judging,
    Need,
    Over,
    Recruit,
    Routed,
    Said,
    Steps,
    Weigh,
    Weighed,
    advance,
    answering,
    named,
    synthesising,
    writable,
)
from symmoe.errors import CapacityError, CheckpointError, EngineError
from symmoe.planning.costs import StepTimes
from symmoe.planning.grouping import Fleet, plan
from symmoe.policy import Policy
from symmoe.protocols import Aggregator, Executor, Recruiter, Scorer, Tagger
from symmoe.routing.recruiting import recruit
from symmoe.routing.tagging import tag
from symmoe.scoring.evidence import weigh
from symmoe.types import (
    Assignment,
    Belief,
    Candidate,
    Explanation,
    Load,
    Observation,
    Outcome,
    Plan,
    Query,
    Refusal,
    Skills,
)

STAGES = ("tag", "recruit", "plan", "load", "generate", "score", "aggregate")

Result = TypeVar("Result")
One = TypeVar("One", Recruit, Ask, Weigh)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a pipeline runs on. `models` maps each expert, in the pool's order, to its model.

    `recruiter` gives the recruiter of a policy. `fleet` describes the executor's workers and what experts cost there,
    where there is more than one. Without `synthesis` every answer is the vote's. `belief` says how far
    votes are believed, unless `verifying` tells how likely answers are right; `most_tokens` the most that some experts
    write.
    """

    tagger: Tagger
    recruiter: Callable[[Policy], Recruiter]
    executor: Executor
    scorer: Scorer
    aggregator: Aggregator
    models: Mapping[str, str]
    fleet: Fleet | None = None
    synthesis: Synthesis | None = None
    belief: Belief = field(default_factory=Belief)
    most_tokens: Mapping[str, int] = field(default_factory=dict)
    verifying: Verifying | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """What a run tells while it goes on. `candidates` is called before anything relies on them: persist them there."""

    planned: Callable[[Plan], None] = lambda plan: None
    loaded: Callable[[Load], None] = lambda load: None
    candidates: Callable[[Sequence[Candidate]], None] = lambda candidates: None


UNWATCHED = Watch()
"""For a run that nobody follows."""


def answer(
    parts: Parts,
    queries: Sequence[Query],
    policies: Policy | Sequence[Policy],
    seed: int,
    known: Sequence[Candidate] = (),
    watch: Watch = UNWATCHED,
    explain: bool = False,
) -> Outcome:
    """Answer queries with distinct ids, all under one policy or each under its own; results come in their order.

    `known` are candidates of an earlier, unfinished run with the same queries, policies and seed, which are kept. With
    `explain` every trace says why its experts were chosen. A query that gets no answer becomes a refusal.
    """
    each = [policies] * len(queries) if isinstance(policies, Policy) else policies
    run = _Run(parts, seed, watch, known, explain)
    judging = Judging(parts.aggregator, parts.synthesis, parts.belief, parts.verifying)
    begun = [answering(query, policy, judging, seed) for query, policy in zip(queries, each, strict=True)]
    results = _Waves(run, begun).results()
    return Outcome(tuple(results), tuple(run.loads), run.clock.seconds, tuple(run.observations))


def synthesise(
    parts: Parts, synthesis: Synthesis, cases: Sequence[Case], seed: int, watch: Watch = UNWATCHED
) -> list[Settled]:
    """Voted cases as `synthesis` has them answered, without recruiting anybody but aggregators."""
    return _Waves(_Run(parts, seed, watch), [synthesising(case, synthesis, seed) for case in cases]).results()


class _Waves(Generic[Result]):
    """Questions that go on together: none is asked of an expert before all that can be asked with it is known."""

    def __init__(self, run: _Run, begun: Sequence[Steps[Result]]) -> None:
        self._run, self._steps = run, begun
        self._needs: dict[int, Need] = {}
        self._accepted: set[int] = set()
        self._results: dict[int, Result] = {}

    def results(self) -> list[Result]:
        """Drive every question to its result; they come in order."""
        with self._run.clock("aggregate"):
            for place in range(len(self._steps)):
                self._send(place, None)
        while self._needs:
            asks = self._needing(Ask)
            if recruits := self._needing(Recruit):
                self._give(recruits, self._run.recruited(list(recruits.values())))
            elif weighs := self._needing(Weigh):
                self._give(weighs, self._run.weighed(list(weighs.values())))
            elif fresh := {place: ask for place, ask in asks.items() if place not in self._accepted}:
                self._accepted |= fresh.keys()
                self._give(fresh, self._run.refused(list(fresh.values())))
            else:
                self._give(asks, self._run.asked(list(asks.values())))
        return [self._results[place] for place in range(len(self._steps))]

    def _needing(self, kind: type[One]) -> dict[int, One]:
        return {place: need for place, need in self._needs.items() if isinstance(need, kind)}

    def _give(self, places: Iterable[int], given: Sequence[Given | None]) -> None:
        """Give questions what they need; None stands for nothing yet."""
        with self._run.clock("aggregate"):
            for place, each in zip(list(places), given, strict=True):
                if each is not None:
                    self._send(place, each)

    def _send(self, place: int, given: Given | None) -> None:
        self._needs.pop(place, None)
        self._accepted.discard(place)
        need = advance(self._steps[place], given)
        if isinstance(need, Over):
            self._results[place] = need.result
        else:
            self._needs[place] = need


class _Run:
    """How a batch gives questions what they need, and what that took. `known` are candidates that are there already."""

    def __init__(
        self, parts: Parts, seed: int, watch: Watch, known: Sequence[Candidate] = (), explain: bool = False
    ) -> None:
        self.clock = _Clock()
        self._parts, self._seed, self._watch, self._explain = parts, seed, watch, explain
        self._kept = {_assignment(candidate): candidate for candidate in known}
        self.loads: list[Load] = []
        self.observations: list[Observation] = []

    def recruited(self, needs: Sequence[Recruit]) -> list[Given | None]:
        """Who answers each query."""
        with self.clock("tag"):
            skills = tag(self._parts.tagger, [need.query for need in needs])
        with self.clock("recruit"):
            queries, policies = [need.query for need in needs], [need.policy for need in needs]
            found = recruit(self._parts.recruiter, queries, skills, policies, self._seed)
            return [
                Routed(policy.way(recruitment), recruitment, needed, self._why(query, needed, policy))
                if policy.expert is None
                else named(query, policy.expert)
                for query, needed, policy, recruitment in zip(queries, skills, policies, found, strict=True)
            ]

    def _why(self, query: Query, needed: Skills, policy: Policy) -> Explanation | None:
        if not self._explain:
            return None
        return self._parts.recruiter(policy).explain(query, needed, policy.k, self._seed)

    def weighed(self, needs: Sequence[Weigh]) -> list[Given | None]:
        """The scorer's verdicts, for all candidates at once."""
        with self.clock("score"):
            verdicts = weigh(
                self._parts.scorer,
                [need.query for need in needs],
                [need.candidates for need in needs],
                [need.recruitment for need in needs],
            )
        return [Weighed(tuple(row)) for row in verdicts]

    def refused(self, needs: Sequence[Ask]) -> list[Given | None]:
        """Refusals of what none of those asked could ever generate for; None for what one of them could.

        One of several that cannot gives a candidate without a text.
        """
        asked: dict[str, tuple[str, list[int]]] = {}
        for place, need in enumerate(needs):
            experts = {self._parts.models[each.expert]: each.expert for each in need.recruitment.assignments}
            for model, expert in experts.items():
                asked.setdefault(model, (expert, []))[1].append(place)
        found: dict[int, list[Refusal | None]] = {}
        with self.clock("plan"):
            for expert, places in asked.values():
                refusals = self._parts.executor.refuse([needs[place].query for place in places], expert)
                for place, refusal in zip(places, refusals, strict=True):
                    found.setdefault(place, []).append(refusal)
        given: list[Given | None] = []
        for place, need in enumerate(needs):
            told = [refusal for refusal in found[place] if refusal is not None]
            whole = len(told) == len(found[place])
            given.append(told[:1] * len(need.recruitment.assignments) if whole else None)
        return given

    def asked(self, needs: Sequence[Ask]) -> list[Given | None]:
        """What experts say, planned for all together. Where only aggregators are asked, one that fails is refused."""
        aggregating = all(need.aggregating for need in needs)
        try:
            self._generate(needs, "aggregate" if aggregating else "generate")
        except (EngineError, CheckpointError, CapacityError) as error:
            if not aggregating:
                raise
            return [[self._found(a, str(error)) for a in need.recruitment.assignments] for need in needs]
        return [[self._kept[assignment] for assignment in need.recruitment.assignments] for need in needs]

    def _found(self, assignment: Assignment, trouble: str) -> Said:
        """What came of an assignment before the trouble."""
        return self._kept.get(assignment) or Refusal(assignment.query_id, "expert_lost", trouble, status=503)

    def _generate(self, needs: Sequence[Ask], stage: str) -> None:
        """Plan what is not there yet and run it; its seconds count for `stage`, but for those of loading.

        Of several workers, which load side by side, it is their mean that counts for loading.
        """
        parts = self._parts
        with self.clock("plan"):
            queries, recruitments = [need.query for need in needs], [need.recruitment for need in needs]
            steps = plan(queries, recruitments, parts.models, self._kept, self._seed, parts.fleet, parts.most_tokens)
            self._watch.planned(steps)
        times, loading, began = StepTimes(), 0.0, time.perf_counter()
        try:
            for event in parts.executor.run(steps):
                if isinstance(event, Load):
                    loading += event.seconds
                    times.load(event)
                    self.loads.append(event)
                    self._watch.loaded(event)
                else:
                    times.candidates(event)
                    found = [writable(candidate) for candidate in event]
                    self._watch.candidates(found)
                    self._kept.update((_assignment(candidate), candidate) for candidate in found)
        finally:
            loading /= len(parts.fleet.workers) if parts.fleet else 1
            self.clock.add("load", loading)
            self.clock.add(stage, time.perf_counter() - began - loading)
            self.observations += times.observations()


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
