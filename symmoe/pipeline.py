"""Runs a batch: drives `answering` for every question, in waves, so that each expert is loaded once a wave."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from symmoe.aggregation.synthesis import Settled, Synthesis
from symmoe.aggregation.verifier import Verifying
from symmoe.aggregation.vote import Case
from symmoe.answering import (
    UNAVAILABLE,
    Ask,
    Done,
    Given,
    Judging,
    Need,
    Recruit,
    Routed,
    Steps,
    Weigh,
    Weighed,
    advance,
    answering,
    routed_by_name,
    synthesising,
    writable,
)
from symmoe.errors import CapacityError, CheckpointError, EngineError, SymmoeError
from symmoe.planning.costs import StepTimes
from symmoe.planning.grouping import Fleet, plan
from symmoe.policy import Policy
from symmoe.protocols import Aggregator, Executor, Recruiter, Scorer, Tagger
from symmoe.routing.recruiting import recruit
from symmoe.routing.tagging import tag
from symmoe.scoring.weighing import weigh
from symmoe.types import (
    Assignment,
    Belief,
    Candidate,
    Explanation,
    Load,
    Message,
    Observation,
    Outcome,
    Plan,
    Query,
    Refusal,
    Sampling,
    Skills,
)

_MOST_RECENT = 8192
_Asked = tuple[str, tuple[Message, ...], Sampling]
STAGES = ("tag", "recruit", "plan", "load", "generate", "score", "aggregate")

Result = TypeVar("Result")
One = TypeVar("One", Recruit, Ask, Weigh)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that a pipeline runs on. `models` maps each expert, in the pool's order, to its model.

    `recruiter` gives the recruiter of a policy. `fleet` describes the executor's workers and the experts' costs, if
    there are several. Without `synthesis` every answer is the vote's. `belief` says how far votes are believed, unless
    `verifying` tells how likely answers are right; `most_tokens` limits what some experts write.
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
    """Callbacks of a run. `candidates` is called before anything relies on them: persist them there."""

    planned: Callable[[Plan], None] = lambda plan: None
    loaded: Callable[[Load], None] = lambda load: None
    candidates: Callable[[Sequence[Candidate]], None] = lambda candidates: None


UNWATCHED = Watch()
"""For a run that nobody follows."""


@dataclass(slots=True)
class Carried:
    """State that runs of one job pass on: the expert that is ready, and those that failed, with the reason.

    With `stop` a run ends with the error of the first expert that fails. Without it the questions of a failed expert go
    to the next best. One that cannot be made ready, or fails in two runs, is `lost` and asked no more. `recent` holds
    the latest greedy calls, so that a repeated one is not made again.
    """

    stop: bool = True
    resident: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    recent: OrderedDict[_Asked, Candidate] = field(default_factory=OrderedDict)

    def remember(self, query: Query, candidate: Candidate) -> None:
        """Note an expert's answer to a query."""
        if query.sampling.temperature == 0 and candidate.finish_reason != "error":
            self.recent[candidate.expert, query.messages, query.sampling] = candidate
            if len(self.recent) > _MOST_RECENT:
                self.recent.popitem(last=False)

    def recall(self, query: Query, assignment: Assignment) -> Candidate | None:
        """The expert's earlier answer to the same query, or None."""
        candidate = self.recent.get((assignment.expert, query.messages, query.sampling))
        return None if candidate is None else replace(candidate, query_id=query.id, slot=assignment.slot, shared=True)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Routing decided before queries are asked, and what it took, in seconds by stage.

    `failed` are the experts that failed when they were asked ahead, and why: they are not asked once more.
    """

    given: Mapping[str, Given]
    seconds: Mapping[str, float]
    failed: Mapping[str, str] = field(default_factory=dict)


def route(
    parts: Parts, queries: Sequence[Query], policies: Sequence[Policy], seed: int, explain: bool = False
) -> Ahead:
    """Decide who answers queries with distinct ids: the first part of `answer`, which another thread may do."""
    run = _Run(parts, seed, UNWATCHED, explain=explain)
    outcomes = run.recruited([Recruit(query, policy) for query, policy in zip(queries, policies, strict=True)])
    recruitments = {query.id: each for query, each in zip(queries, outcomes, strict=True) if each is not None}
    return Ahead(recruitments, run.clock.seconds)


def first_asks(
    parts: Parts, queries: Sequence[Query], policies: Sequence[Policy], seed: int, ahead: Ahead
) -> list[Ask]:
    """What queries ask of experts first, once who answers was decided `ahead`; without what would be refused."""
    run = _Run(parts, seed, UNWATCHED, ahead=ahead)
    judging = Judging(parts.aggregator, parts.synthesis, parts.belief, parts.verifying)
    return _Waves(run, [answering(*each, judging, seed) for each in zip(queries, policies, strict=True)]).first_asks()


def ask(
    parts: Parts,
    asks: Sequence[Ask],
    homes: Mapping[str, int],
    known: Sequence[Candidate],
    seed: int,
    watch: Watch,
    carried: Carried,
) -> tuple[Outcome, dict[str, str]]:
    """Ask experts before their questions are answered, each on its own worker of `homes`.

    `watch` gets the candidates, for `answer` to know. Returns what it took, and the experts that failed, with the
    reason: `answer` is told of them in `Ahead`, and asks others. Other parameters are those of `answer`.
    """
    run = _Run(parts, seed, watch, known, carried=carried, homes=homes)
    run.asked(asks)
    run.remember([each.query for each in asks])
    return Outcome((), tuple(run.loads), run.clock.seconds, tuple(run.observations)), run.failed


def answer(
    parts: Parts,
    queries: Sequence[Query],
    policies: Policy | Sequence[Policy],
    seed: int,
    known: Sequence[Candidate] = (),
    watch: Watch = UNWATCHED,
    explain: bool = False,
    ahead: Ahead | None = None,
    carried: Carried | None = None,
) -> Outcome:
    """Answer queries with distinct ids, all under one policy or each under its own; results are in their order.

    `known` are candidates of an earlier, unfinished run with the same queries, policies and seed, which are kept. With
    `explain` every trace says why its experts were chosen. A query without an answer becomes a refusal. `ahead` is what
    `route` returned for the same queries, `carried` the state left by an earlier run of the job. Raises `EngineError`
    if no expert is left, and if one fails and `carried` says to stop.
    """
    each = [policies] * len(queries) if isinstance(policies, Policy) else policies
    run = _Run(parts, seed, watch, known, explain, ahead, carried)
    judging = Judging(parts.aggregator, parts.synthesis, parts.belief, parts.verifying)
    steps = [answering(query, policy, judging, seed) for query, policy in zip(queries, each, strict=True)]
    results = _Waves(run, steps).results()
    run.remember(queries)
    return Outcome(tuple(results), tuple(run.loads), run.clock.seconds, tuple(run.observations))


def synthesise(
    parts: Parts, synthesis: Synthesis, cases: Sequence[Case], seed: int, watch: Watch = UNWATCHED
) -> list[Settled]:
    """Answer voted cases as `synthesis` decides, without recruiting anybody but aggregators."""
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
        self._begin()
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

    def first_asks(self) -> list[Ask]:
        """What each question asks first, if somebody could answer that; none goes further."""
        self._begin()
        recruits = self._needing(Recruit)
        self._give(recruits, self._run.recruited(list(recruits.values())))
        asks = list(self._needing(Ask).values())
        return [each for each, refusals in zip(asks, self._run.refused(asks), strict=True) if refusals is None]

    def _begin(self) -> None:
        with self._run.clock("aggregate"):
            for place in range(len(self._steps)):
                self._send(place, None)

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
        if isinstance(need, Done):
            self._results[place] = need.result
        else:
            self._needs[place] = need


class _Run:
    """How a batch gives questions what they need, and what that took. `known` are candidates that are there already."""

    def __init__(
        self,
        parts: Parts,
        seed: int,
        watch: Watch,
        known: Sequence[Candidate] = (),
        explain: bool = False,
        ahead: Ahead | None = None,
        carried: Carried | None = None,
        homes: Mapping[str, int] | None = None,
    ) -> None:
        self.clock = _Clock()
        self._parts, self._seed, self._watch, self._explain = parts, seed, watch, explain
        self._ahead = {} if ahead is None else dict(ahead.given)
        self._failed_ahead = {} if ahead is None else ahead.failed
        self._homes = homes
        self._carried = Carried() if carried is None else carried
        self._kept = {candidate.assignment: candidate for candidate in known}
        self._given_up: dict[Assignment, Refusal] = {}
        for stage, spent in ahead.seconds.items() if ahead else ():
            self.clock.add(stage, spent)
        self.loads: list[Load] = []
        self.observations: list[Observation] = []

    @property
    def failed(self) -> dict[str, str]:
        """The experts that were given up on, and why."""
        return {each.expert: refusal.message for each, refusal in self._given_up.items()}

    def remember(self, queries: Sequence[Query]) -> None:
        """Have later runs of the job know what was said to the last of these."""
        by_id = {query.id: query for query in queries[-_MOST_RECENT:]}
        for assignment, candidate in self._kept.items():
            if assignment.query_id in by_id and not candidate.shared:
                self._carried.remember(by_id[assignment.query_id], candidate)

    def recruited(self, needs: Sequence[Recruit]) -> list[Given | None]:
        """Who answers each query: as was found ahead, but for what goes to others since."""
        found = {
            place: self._ahead.pop(need.query.id) for place, need in enumerate(needs) if need.query.id in self._ahead
        }
        open_ = [place for place in range(len(needs)) if place not in found]
        found.update(zip(open_, self._recruited([needs[place] for place in open_]), strict=True))
        return [found[place] for place in range(len(needs))]

    def _recruited(self, needs: Sequence[Recruit]) -> list[Given]:
        if not needs:
            return []
        lost = self._carried.lost
        if lost and lost.keys() >= self._parts.models.keys():
            raise EngineError("no expert is left: " + "; ".join(f"{name}: {why}" for name, why in lost.items()))
        with self.clock("tag"):
            skills = tag(self._parts.tagger, [need.query for need in needs])
        with self.clock("recruit"):
            queries = [need.query for need in needs]
            policies = [need.policy.excluding(tuple(lost)) if lost else need.policy for need in needs]
            if any(policy.expert is None and set(policy.without) >= self._parts.models.keys() for policy in policies):
                return [_nobody(need) for need in needs]
            recruitments = recruit(self._parts.recruiter, queries, skills, policies, self._seed)
            return [
                Routed(policy.way(recruitment), recruitment, needed, self._why(query, needed, policy))
                if policy.expert is None
                else routed_by_name(query, policy.expert)
                for query, needed, policy, recruitment in zip(queries, skills, policies, recruitments, strict=True)
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
        by_model: dict[str, tuple[str, list[int]]] = {}
        for place, need in enumerate(needs):
            experts = {self._parts.models[each.expert]: each.expert for each in need.recruitment.assignments}
            for model, expert in experts.items():
                by_model.setdefault(model, (expert, []))[1].append(place)
        by_place: dict[int, list[Refusal | None]] = {}
        with self.clock("plan"):
            for expert, places in by_model.values():
                refusals = self._parts.executor.refuse([needs[place].query for place in places], expert)
                for place, refusal in zip(places, refusals, strict=True):
                    by_place.setdefault(place, []).append(refusal)
        outcomes: list[Given | None] = []
        for place, need in enumerate(needs):
            reasons = [refusal for refusal in by_place[place] if refusal is not None]
            all_refuse = len(reasons) == len(by_place[place])
            outcomes.append(reasons[:1] * len(need.recruitment.assignments) if all_refuse else None)
        return outcomes

    def asked(self, needs: Sequence[Ask]) -> list[Given | None]:
        """What experts say, planned for all together. One that fails is refused: only an aggregator, or whoever may."""
        aggregating = all(need.aggregating for need in needs)
        wanted = [assignment for need in needs for assignment in need.recruitment.assignments]
        self._recall(needs)
        for expert, why in (*self._carried.lost.items(), *self._failed_ahead.items()):
            self._give_up(expert, why, wanted)
        self._failed_ahead = {}
        while any(each not in self._kept and each not in self._given_up for each in wanted):
            try:
                self._generate(needs, "aggregate" if aggregating else "generate")
            except (EngineError, CheckpointError, CapacityError) as error:
                if not error.expert or (self._carried.stop and not aggregating):
                    raise
                self._failed(error)
                self._give_up(error.expert, str(error), wanted)
        return [
            [self._kept.get(each) or self._given_up[each] for each in need.recruitment.assignments] for need in needs
        ]

    def _failed(self, error: SymmoeError) -> None:
        carried = self._carried
        if error.unloaded or error.expert in carried.failed:
            carried.lost[error.expert] = str(error)
        carried.failed[error.expert] = str(error)

    def _give_up(self, expert: str, why: str, wanted: Sequence[Assignment]) -> None:
        """What an expert that failed was still to say, others will."""
        for each in wanted:
            if each.expert == expert and each not in self._kept:
                refusal = Refusal(each.query_id, UNAVAILABLE, why, status=503, elsewhere=True)
                self._given_up.setdefault(each, refusal)

    def _recall(self, needs: Sequence[Ask]) -> None:
        """Take what was said to the same words in an earlier run of the job."""
        carried = self._carried
        if carried.recent:
            remembered = (
                carried.recall(need.query, each)
                for need in needs
                for each in need.recruitment.assignments
                if each not in self._kept and need.query.sampling.temperature == 0
            )
            if recalled := [candidate for candidate in remembered if candidate is not None]:
                self._watch.candidates(recalled)
                self._kept.update((candidate.assignment, candidate) for candidate in recalled)

    def _generate(self, needs: Sequence[Ask], stage: str) -> None:
        """Plan what is not there yet and run it; its seconds count for `stage`, but for those of loading.

        Of several workers, which load side by side, it is their mean that counts for loading.
        """
        parts = self._parts
        with self.clock("plan"):
            queries, recruitments = [need.query for need in needs], [need.recruitment for need in needs]
            done = {**self._kept, **self._given_up} if self._given_up else self._kept
            steps = plan(
                queries,
                recruitments,
                parts.models,
                done,
                self._seed,
                parts.fleet if self._homes is None else None,
                parts.most_tokens,
                self._carried.resident,
            )
            if self._homes is not None:
                steps = Plan(tuple(replace(step, worker=self._homes[step.expert]) for step in steps.steps))
            self._watch.planned(steps)
        times, loading, began = StepTimes(), 0.0, time.perf_counter()
        try:
            for event in parts.executor.run(steps):
                if isinstance(event, Load):
                    loading += event.seconds
                    times.load(event)
                    self.loads.append(event)
                    self._carried.resident = event.expert
                    self._watch.loaded(event)
                else:
                    times.candidates(event)
                    candidates = [writable(candidate) for candidate in event]
                    self._watch.candidates(candidates)
                    for candidate in candidates:
                        self._kept[candidate.assignment] = candidate
        finally:
            loading /= len(parts.fleet.workers) if parts.fleet else 1
            self.clock.add("load", loading)
            self.clock.add(stage, time.perf_counter() - began - loading)
            self.observations += times.observations()


def _nobody(need: Recruit) -> Refusal:
    """For a question that nobody is left for."""
    return Refusal(need.query.id, UNAVAILABLE, "every expert that may be asked has failed", status=503)


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
