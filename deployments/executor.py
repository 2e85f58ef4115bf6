"""Running a plan on Ray: one worker process for each accelerator, or for each share of the CPUs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.errors import EngineError, SymmoeError
from symmoe.executor.dispatch import Cost, Dispatch
from symmoe.executor.in_process import LOST, candidates
from symmoe.protocols import Standing
from symmoe.types import Candidate, Generation, Lane, Load, Plan, Query, Refusal, Step

from .placement import claim, dealt
from .session import ray_session
from .worker import Build, Worker

_LOOK_SECONDS = 5.0
_ROOM_SECONDS = 15.0
"""A worker that no machine has begun after so long loses its step to others, until it is there."""
_NOBODY_SECONDS = 600.0
"""So long a cluster may take to have room for anybody at all."""


@dataclass(slots=True)
class _Run:
    """A worker's step. `awaited` is its load, or once it is loaded the stream of its generations."""

    worker: int
    step: Step
    awaited: Any
    began: float
    loaded: bool = False
    lane: Lane = "resident"


class RayExecutor:
    """Runs plans on `workers` processes of a cluster, or of this machine where no `address` is given.

    Ray starts with the first plan that has work, and ends with `close`. A worker that dies or fails is replaced, and
    what it had not delivered is run again. `costs` predict every expert of the pool in one unit; without them calls are
    counted. On a cluster every machine needs symmoe, and the pool's files at the same paths; workers are dealt to the
    machines as they have room. One that asks for no token is refused unless `without_token`.
    """

    def __init__(
        self,
        pool: Pool,
        workers: int,
        address: str | None = None,
        costs: Mapping[str, Cost] | None = None,
        build: Build = Assembly,
        without_token: bool = False,
    ) -> None:
        self._pool = pool
        self._workers = workers
        self._address, self._without_token = address, without_token
        self._costs = costs
        self._build = build
        self._session = ExitStack()
        self._actors: dict[int, Any] = {}
        self._ready: dict[int, list[str]] = {}
        self._begun: dict[int, Any] = {}
        self._absent: set[int] = set()
        self._claim: dict[str, float] | None = None
        self._machines: list[str] = []
        self._waiting: dict[int, float] = {}
        """Until when each idle worker waits for those with whom it is to begin."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _assembly(self) -> Assembly:
        return self._build(self._pool)

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        """Why an expert could never answer each query, told by an engine of this process, not started; None where it
        could.
        """
        return self._assembly.engine.refuse(queries, self._assembly.weights(expert).model)

    def standing(self) -> list[Standing]:
        """How each worker stands. On a cluster this joins it, to know on which machines they will be."""
        if self._address is not None:
            self._join()
        ready = [self._ready.get(worker, []) for worker in range(self._workers)]
        machines = self._machines or [""] * self._workers
        return [
            Standing(experts[-1] if experts else "", frozenset(experts), machine)
            for experts, machine in zip(ready, machines, strict=True)
        ]

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """Run every step; loads and candidates come out as they happen, each call's candidates once.

        A call that kills whoever runs it comes out with the finish reason "error". `EngineError` for an expert that
        cannot be loaded or a step that fails twice; what was given out before holds.
        """
        clock = (lambda: 0.0) if self._costs is None else time.monotonic
        dispatch = Dispatch(plan, self._workers, self._costs, models=self._assembly.models, clock=clock)
        runs: dict[int, _Run] = {}
        for worker in self._absent:
            dispatch.returned(worker)
        try:
            while not dispatch.done:
                self._begin(dispatch, runs)
                yield from self._follow(dispatch, runs)
        finally:
            for worker in runs:  # whoever left in the middle wants no more of these
                self._discard(worker)

    def close(self) -> None:
        """End every worker, and Ray if it is our own. Safe to call twice."""
        for worker in list(self._actors):
            self._discard(worker)
        self._claim, self._machines = None, []
        self._session.close()

    def _begin(self, dispatch: Dispatch, runs: dict[int, _Run]) -> None:
        """Give every idle worker that has something to do its next step, unless that waits for others."""
        idle = [worker for worker in range(self._workers) if worker not in runs and worker not in self._absent]
        for worker, step in dispatch.begin(idle):
            load = self._actor(worker).ready.remote(step.expert, dispatch.ahead(worker), dispatch.joint(worker))
            runs[worker] = _Run(worker, step, load, time.monotonic())
        until = {w: time.monotonic() + joint.patience for w, joint in dispatch.waiting(idle).items() if w not in runs}
        self._waiting = {worker: self._waiting.get(worker, end) for worker, end in until.items()}

    def _follow(self, dispatch: Dispatch, runs: dict[int, _Run]) -> Iterator[Load | list[Candidate]]:
        """Pass on what the workers give until one of them is free, or has waited long enough for others."""
        import ray

        while True:
            waited = [run.awaited for run in runs.values()] + [self._begun[worker] for worker in self._absent]
            soonest = min(self._waiting.values(), default=math.inf) - time.monotonic()
            if soonest <= 0:
                dispatch.hurry(min(self._waiting, key=lambda worker: self._waiting[worker]))
                return
            look = _LOOK_SECONDS if runs else _NOBODY_SECONDS
            done, _ = ray.wait(waited, num_returns=1, timeout=min(look, soonest))
            if not done:
                self._look_for_room(dispatch, runs)
                return
            run = next((run for run in runs.values() if run.awaited is done[0]), None)
            if run is None:
                self._absent -= {worker for worker in self._absent if self._begun[worker] is done[0]}
                return
            runs[run.worker] = runs.pop(run.worker)  # Ray looks at the first first: now it is the others' turn
            try:
                result = ray.get(next(run.awaited) if run.loaded else run.awaited)
            except (StopIteration, ray.exceptions.RayError) as end:
                del runs[run.worker]
                yield from self._ended(dispatch, run, end)
                return
            yield from _delivered(dispatch, run, *result) if run.loaded else self._loaded(dispatch, run, result)

    def _look_for_room(self, dispatch: Dispatch, runs: dict[int, _Run]) -> None:
        """Take back the steps of workers for which no machine has room: one was lost, or others use it."""
        import ray

        if not runs:
            raise EngineError(f"no machine had room for a worker in {_NOBODY_SECONDS:g} s", hint="see `ray status`")
        late = time.monotonic() - _ROOM_SECONDS
        for run in [run for run in runs.values() if not run.loaded and run.began < late]:
            if not ray.wait([self._begun[run.worker]], timeout=0)[0]:
                dispatch.returned(run.worker)
                self._absent.add(run.worker)
                del runs[run.worker]

    def _loaded(self, dispatch: Dispatch, run: _Run, load: Load) -> Iterator[Load]:
        """The expert is ready, which is known here before its calls are sent: a death is blamed on the right one."""
        dispatch.loaded(run.worker)
        self._ready.setdefault(run.worker, []).append(load.expert)
        run.loaded, run.lane = True, load.lane
        run.awaited = self._actor(run.worker).generate.options(num_returns="streaming").remote(run.step.calls)
        yield load

    def _ended(self, dispatch: Dispatch, run: _Run, end: Exception) -> Iterator[list[Candidate]]:
        """A step is over: done, failed, or lost with its worker."""
        import ray

        if isinstance(end, StopIteration):
            dispatch.finished(run.worker)
            return
        self._discard(run.worker)  # after an error nobody knows what state an engine is in
        if isinstance(end, ray.exceptions.RayTaskError):
            dispatch.failed(run.worker, _as_symmoe_error(end.cause))
            return
        for call in dispatch.died(run.worker):
            yield candidates(call, LOST, run.lane)

    def _join(self) -> dict[str, float]:
        """Enter the cluster, or start one; what a worker claims of it."""
        if self._claim is None:
            self._session.enter_context(ray_session(self._workers, self._address, without_token=self._without_token))
            self._claim = worker_share(self._pool, self._workers)
            self._machines = dealt(_machines(), self._claim, self._workers)
        return self._claim

    def _actor(self, worker: int) -> Any:
        """The worker's process, begun if there is none."""
        resources = self._join()
        import ray  # only now: the session sets what Ray reads when it is imported
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if worker not in self._actors:
            place = NodeAffinitySchedulingStrategy(self._machines[worker], soft=True, _spill_on_unavailable=True)
            actor = ray.remote(Worker).options(
                **resources, max_restarts=0, max_task_retries=0, scheduling_strategy=place
            )
            self._actors[worker] = actor.remote(self._pool, self._build)
            self._begun[worker] = self._actors[worker].begun.remote()
        return self._actors[worker]

    def _discard(self, worker: int) -> None:
        self._ready.pop(worker, None)
        self._absent.discard(worker)
        actor = self._actors.pop(worker, None)
        if actor is not None:
            import ray

            ray.kill(actor)


def _delivered(dispatch: Dispatch, run: _Run, place: int, generation: Generation) -> Iterator[list[Candidate]]:
    """What a worker gave for a call, if it was not given before."""
    call = run.step.calls[place]
    if dispatch.delivered(run.worker, call):
        yield candidates(call, generation, run.lane)


def worker_share(pool: Pool, workers: int) -> dict[str, float]:
    """What each of so many workers claims of the cluster that this process is part of, as Ray's options name it.

    Raises `JobError` where they do not fit.
    """
    accelerators = pool.engine.tensor_parallel_size if pool.engine.runs_models else 0
    return claim(list(_machines().values()), workers, accelerators)


def _machines() -> dict[str, dict[str, float]]:
    """What each living machine of the cluster has."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def actors_beside_tasks(pool: Pool, workers: int) -> dict[str, Any]:
    """So many workers as actors among tasks of others, and what each claims, as Ray Data's `map_batches` takes it.

    On CPUs a worker computes on its whole share and claims half of it: where workers had all CPUs, tasks that read what
    they are asked would never run. Of several machines it is a quarter, so that this holds when one is lost and its
    workers come to the others. Where no machine has a second CPU they claim none, nor where that would leave too little
    for Ray Data to leave out, in an actor of its own, what its checkpoint says is done. Raises `JobError` where they do
    not fit.
    """
    share = worker_share(pool, workers)
    from ray.data import ActorPoolStrategy, DataContext

    actors = {"compute": ActorPoolStrategy(size=workers)}
    if "num_gpus" in share:
        return {**actors, **share}
    cpus = share["num_cpus"]
    machines = [count for machine in _machines().values() if (count := machine.get("CPU", 0))]
    part = 0 if max(machines) < 2 else 1 / 2 if len(machines) == 1 else 1 / 4
    if DataContext.get_current().checkpoint_config is not None and sum(machines) - cpus * part * workers < 2:
        part = 0
    threads = {"env_vars": {"OMP_NUM_THREADS": str(int(cpus))}}
    return {**actors, "num_cpus": cpus * part, "runtime_env": threads}


def _as_symmoe_error(cause: BaseException) -> SymmoeError:
    if isinstance(cause, SymmoeError):
        return cause
    return EngineError(f"{type(cause).__name__}: {(str(cause).strip() or 'no reason given').splitlines()[0]}")
