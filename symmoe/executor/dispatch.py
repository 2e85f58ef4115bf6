"""Decides who runs what next where several workers share a plan: bookkeeping without processes or threads."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from symmoe.errors import EngineError, SymmoeError
from symmoe.types import Call, Joint, Plan, Step

TRIES = 3
"""How often a step is tried that fails and brings nothing."""


class Cost(Protocol):
    """The predicted costs of an expert: of making it ready, and of each call. `planning.costs` has such values."""

    @property
    def load(self) -> float:
        """Cost of making it ready on a worker that has another expert."""
        ...

    @property
    def request(self) -> float:
        """Cost of one call among many."""
        ...

    def after(self, same_expert: bool, same_model: bool, asleep: bool = False) -> float:
        """Cost of making it ready after itself, an expert of its model, or another, with its engine asleep or not."""
        ...


@dataclass(frozen=True, slots=True)
class Counted:
    """Costs without measurements: each call counts one, and a load as much as four calls."""

    load: float = 4.0
    request: float = 1.0

    def after(self, same_expert: bool, same_model: bool, asleep: bool = False) -> float:
        """0 after itself, otherwise the cost of a load."""
        return 0.0 if same_expert else self.load


@dataclass(frozen=True, slots=True)
class Queued:
    """A step that has not begun: its calls, the cost of one, and of loading.

    That is `load` in its place; `spared` is by how much its worker's loads get cheaper without it, `elsewhere` what a
    thief would pay.
    """

    calls: int
    request: float
    load: float
    spared: float
    elsewhere: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a worker has yet to do: the rest of its running step, in the unit of the costs, and its queue."""

    running: float
    queued: Sequence[Queued]

    @property
    def remaining(self) -> float:
        """The cost of all of it."""
        return self.running + sum(step.load + step.calls * step.request for step in self.queued)


@dataclass(frozen=True, slots=True)
class Theft:
    """The last `calls` calls of the step at index `place` of a queue."""

    place: int
    calls: int


def best_theft(victim: Backlog) -> Theft | None:
    """The theft that lets the later of the two workers end soonest; None if none pays.

    Stealing a whole step must let the two end earlier; half a step, which costs an additional load, earlier by more
    than that load. Among equals: the cheapest load, a whole step, the one that the victim would come to last.
    """
    thefts = [_judge(victim, place, calls) for place, calls in _possible(victim.queued)]
    paying = [(key, theft) for key, theft in thefts if key is not None]
    return min(paying, key=lambda each: each[0])[1] if paying else None


def _possible(queued: Sequence[Queued]) -> Iterator[tuple[int, int]]:
    for place, step in enumerate(queued):
        yield place, step.calls
        if step.calls > 1:
            yield place, step.calls // 2


def _judge(victim: Backlog, place: int, calls: int) -> tuple[tuple[float, float, bool, int] | None, Theft]:
    """How good a theft is, smaller being better, or None for one that does not pay."""
    step = victim.queued[place]
    half = calls < step.calls
    work = calls * step.request
    victim_ends = victim.remaining - work - (0.0 if half else step.spared)
    ends = max(victim_ends, step.elsewhere + work)
    pays = victim.remaining - ends > (step.elsewhere if half else 0.0)
    return (ends, step.elsewhere, half, -place) if pays else None, Theft(place, calls)


@dataclass(frozen=True, slots=True)
class _Work:
    """Something to run. `barred` is the worker on which it failed last: another should try. `failed` counts that."""

    step: Step
    barred: int | None = None
    failed: int = 0


@dataclass(slots=True)
class _Run:
    """What a worker is running, and the calls that it has not answered."""

    work: _Work
    left: dict[Call, None]
    began: float
    loaded: bool = False
    joint: Joint | None = None

    def rest(self) -> _Work:
        return replace(self.work, step=replace(self.work.step, calls=tuple(self.left)))


class Dispatch:
    """Hands each worker its next step, and every call out until it is delivered exactly once, whoever dies on the way.

    Each worker runs its own steps in the plan's order. One without any left takes what failed elsewhere, then what a
    dead worker left, then steals from the worker with most to do, if that is predicted to pay. A single driver calls
    it: `begin` for the idle workers, or `next` for one of them, then `loaded`, `delivered` for each call, and
    `finished`, `failed`, `died` or `returned`.

    Joint steps begin together: a worker that reaches one waits until the others that still have theirs do too, unless
    it is told to `hurry` or nobody is at work.

    `costs` predict every expert of the plan in one unit, such as seconds; without them calls are counted. `models` maps
    experts to their models, between whose experts loads are cheap; without it each has its own. `clock` tells the time
    in the unit of the costs, so that of a load under way only the rest counts. A call whose worker died is retried
    `retries` times, the last time alone, so that it is known which call kills. A step that fails without a death is
    tried `TRIES` times, each time elsewhere if there is another worker.
    """

    def __init__(
        self,
        plan: Plan,
        workers: int,
        costs: Mapping[str, Cost] | None = None,
        retries: int = 2,
        models: Mapping[str, str] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._workers = range(workers)
        self._models = models or {}
        self._alive: list[set[str]] = [set() for _ in self._workers]
        self._costs = costs
        self._retries = retries
        self._queues: list[deque[_Work]] = [deque() for _ in self._workers]
        self._adrift: deque[_Work] = deque()
        self._runs: dict[int, _Run] = {}
        self._gone: set[int] = set()
        self._hurried: set[int] = set()
        self._resident: list[str] = ["" for _ in self._workers]
        self._deaths: Counter[Call] = Counter()
        self._deaths_in_load: Counter[str] = Counter()
        for step in plan.steps:
            if step.calls:
                self._queues[step.worker % workers].append(_Work(step))

    @property
    def done(self) -> bool:
        """Whether every call was delivered or given up."""
        return not (self._runs or self._adrift or any(self._queues))

    def begin(self, idle: Sequence[int]) -> list[tuple[int, Step]]:
        """The step that each idle worker begins now, if any."""
        self._gone.difference_update(idle)
        begun = self._begun(idle)
        if not begun and not self._runs:
            self._hurried.update(joint.number for joint in self.waiting(idle).values())
            begun = self._begun(idle)
        return begun

    def waiting(self, idle: Sequence[int]) -> dict[int, Joint]:
        """The idle workers waiting at a joint step for the others, each with the step's joint."""
        heads = {worker: self._queues[worker][0].step.joint for worker in idle if self._queues[worker]}
        return {worker: joint for worker, joint in heads.items() if joint is not None}

    def hurry(self, worker: int) -> None:
        """Let a worker that has waited long enough begin with those that are there."""
        self._hurried.update(joint.number for joint in self.waiting([worker]).values())

    def joint(self, worker: int) -> Joint | None:
        """The joint of the worker's step, its `workers` those that began together; None for a single step."""
        return self._runs[worker].joint

    def next(self, worker: int) -> Step | None:
        """The step that an idle worker begins now, or None if none would pay. Asking shows that it lives."""
        self._gone.discard(worker)
        work = self._own(worker) or self._elsewhere(worker) or self._left_behind() or self._stolen(worker)
        if work is None:
            return None
        self._runs[worker] = _Run(work, dict.fromkeys(work.step.calls), self._clock())
        return work.step

    def ahead(self, worker: int) -> tuple[str, ...]:
        """The experts that the worker will need after its step, soonest first, as far as known."""
        return tuple(dict.fromkeys(work.step.expert for work in self._queues[worker]))

    def loaded(self, worker: int) -> None:
        """Note that the expert of the worker's step is ready."""
        run = self._runs[worker]
        run.loaded = True
        self._resident[worker] = run.work.step.expert
        self._alive[worker].add(self._model(run.work.step.expert))

    def delivered(self, worker: int, call: Call) -> bool:
        """Note a call's result. False if it had come before or was not the worker's: then it must not be used."""
        try:
            del self._runs[worker].left[call]
        except KeyError:
            return False
        return True

    def finished(self, worker: int) -> None:
        """Note that the worker's step ended normally. Calls left unanswered count as a failure of the step."""
        run = self._runs[worker]
        if run.left:
            self.failed(worker, EngineError(f"it ended with {len(run.left)} calls unanswered"))
        else:
            del self._runs[worker]

    def failed(self, worker: int, error: SymmoeError) -> None:
        """Note that the worker's step ended with an error. After the last try raises `EngineError` naming the expert.

        The count restarts after a try that delivered something: what fails for good delivers nothing.
        """
        run = self._runs.pop(worker)
        self._forget(worker)
        if not run.left:
            return
        expert = run.work.step.expert
        failed = 1 + (run.work.failed if len(run.left) == len(run.work.step.calls) else 0)
        if failed >= TRIES:
            why = f"expert {expert!r} failed {failed} times: {error}"
            raise EngineError(why, hint=error.hint).of(expert, failed, unloaded=not run.loaded) from error
        self._adrift.append(replace(run.rest(), barred=worker, failed=failed))

    def returned(self, worker: int) -> None:
        """Note that the worker cannot begin its step: others may take all its work, until it asks again."""
        self._gone.add(worker)
        run = self._runs.pop(worker, None)
        self._requeue(worker, [] if run is None else [run.work])

    def died(self, worker: int) -> tuple[Call, ...]:
        """Note that the worker died: others may take its work. Returns the calls that are given up.

        Raises `EngineError` if loading the same expert ended more than `retries` workers.
        """
        self._gone.add(worker)
        self._forget(worker)
        run = self._runs.pop(worker, None)
        if run is None:
            return ()
        if not run.loaded:
            self._count_death_in_load(run.work.step.expert)
            self._requeue(worker, [run.rest()])
            return ()
        self._deaths.update(run.left.keys())
        self._requeue(worker, self._again(run.rest()))
        return tuple(call for call in run.left if self._deaths[call] > self._retries)

    def _count_death_in_load(self, expert: str) -> None:
        self._deaths_in_load[expert] += 1
        if self._deaths_in_load[expert] > self._retries:
            raise EngineError(
                f"expert {expert!r} cannot be loaded: {self._deaths_in_load[expert]} workers died of it",
                hint="most often memory: look into the engine's log, or use fewer workers",
            ).of(expert, self._deaths_in_load[expert], unloaded=True)

    def _again(self, rest: _Work) -> Iterable[_Work]:
        """What is tried again of a step that died: together at first, each call alone the last time."""
        retried = [call for call in rest.step.calls if self._deaths[call] < self._retries]
        if retried:
            yield replace(rest, step=replace(rest.step, calls=tuple(retried)))
        for call in rest.step.calls:
            if self._deaths[call] == self._retries:
                yield replace(rest, step=replace(rest.step, calls=(call,)))

    def _begun(self, idle: Sequence[int]) -> list[tuple[int, Step]]:
        waiting = self.waiting(idle)
        present = Counter(joint.number for joint in waiting.values())
        queues = [queue for worker, queue in enumerate(self._queues) if worker not in self._gone]
        coming = Counter(n for queue in queues for n in {work.step.joint.number for work in queue if work.step.joint})
        begun = []
        for worker in idle:
            joint = waiting.get(worker)
            if joint and present[joint.number] < coming[joint.number] and joint.number not in self._hurried:
                continue
            if (step := self.next(worker)) is not None:
                begun.append((worker, step))
                if joint and step.joint == joint and present[joint.number] > 1:
                    self._runs[worker].joint = replace(joint, workers=present[joint.number])
        return begun

    def _requeue(self, worker: int, works: Iterable[_Work]) -> None:
        for work in reversed(list(works)):
            (self._queues[worker] if work.barred is None else self._adrift).appendleft(work)

    def _own(self, worker: int) -> _Work | None:
        return self._queues[worker].popleft() if self._queues[worker] else None

    def _elsewhere(self, worker: int) -> _Work | None:
        """What failed on another worker, or on this one if no other lives."""
        alone = len(self._gone) == len(self._workers) - 1
        for work in self._adrift:
            if work.barred != worker or alone:
                self._adrift.remove(work)
                return work
        return None

    def _left_behind(self) -> _Work | None:
        """The next work of a dead worker."""
        return next((self._queues[gone].popleft() for gone in self._gone if self._queues[gone]), None)

    def _stolen(self, thief: int) -> _Work | None:
        """Something that another worker has not begun, taken where that makes the two of them end earlier."""
        victims = [worker for worker in self._workers if self._queues[worker]]
        if not victims:
            return None
        victim = max(victims, key=lambda worker: self._backlog(worker, thief).remaining)
        theft = best_theft(self._backlog(victim, thief))
        return None if theft is None else self._take(victim, theft)

    def _take(self, victim: int, theft: Theft) -> _Work:
        queue = self._queues[victim]
        work = queue[theft.place]
        kept_calls = work.step.calls[: len(work.step.calls) - theft.calls]
        if kept_calls:
            queue[theft.place] = replace(work, step=replace(work.step, calls=kept_calls))
        else:
            del queue[theft.place]
        return replace(work, step=replace(work.step, calls=work.step.calls[len(kept_calls) :]))

    def _backlog(self, worker: int, thief: int) -> Backlog:
        run = self._runs.get(worker)
        before = self._resident[worker] if run is None else run.work.step.expert
        steps = [work.step for work in self._queues[worker]]
        experts = [before, *(step.expert for step in steps), ""]
        queued = []
        for place, step in enumerate(steps):
            last, expert, following = experts[place : place + 3]
            load = self._load(worker, expert, last)
            through = self._load(worker, following, expert) if following else 0.0
            without = self._load(worker, following, last) if following else 0.0
            thief_load = self._load(thief, expert, self._resident[thief])
            cost = self._cost(expert)
            queued.append(Queued(len(step.calls), cost.request, load, load + through - without, thief_load))
        return Backlog(self._running(worker), queued)

    def _running(self, worker: int) -> float:
        """What is left of the step that the worker runs."""
        run = self._runs.get(worker)
        if run is None:
            return 0.0
        expert = run.work.step.expert
        load = 0.0 if run.loaded else self._load(worker, expert, self._resident[worker])
        return len(run.left) * self._cost(expert).request + max(load - (self._clock() - run.began), 0.0)

    def _load(self, worker: int, expert: str, after: str) -> float:
        """What making an expert ready costs a worker that has another ready, or nothing."""
        model = self._model(expert)
        same_model = bool(after) and self._model(after) == model
        return self._cost(expert).after(after == expert, same_model, model in self._alive[worker])

    def _model(self, expert: str) -> str:
        return self._models.get(expert, expert)

    def _forget(self, worker: int) -> None:
        """The worker's process, and with it its engines, are no more."""
        self._resident[worker] = ""
        self._alive[worker].clear()

    def _cost(self, expert: str) -> Cost:
        return Counted() if self._costs is None else self._costs[expert]
