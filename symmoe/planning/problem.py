"""The placement problem: each expert's requests, their costs, where they may run; and a lower bound on the makespan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from symmoe.errors import PoolError
from symmoe.planning.costs import ExpertCost

Pieces = dict[int, int]
"""What one worker does: the number of requests of each expert, by the expert's place in the instance."""
Placement = list[Pieces]
"""The pieces of every worker. An expert with pieces on several workers is split; each of them loads it once."""
_STEPS = 60
_GRAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Worker:
    """One accelerator: the expert that is ready on it, and the bytes of weights that fit, None for no limit.

    `asleep` are the models whose engines sleep there: waking one costs little more than a swap in a running one.
    Workers with the same `machine` load through the same memory.
    """

    resident: str = ""
    memory: int | None = None
    asleep: frozenset[str] = frozenset()
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """The requests of each expert, their costs, each expert's model, and the workers.

    `together` counts, for pairs of experts in either order, the questions that ask both.
    """

    requests: Mapping[str, int]
    costs: Mapping[str, ExpertCost]
    models: Mapping[str, str]
    workers: tuple[Worker, ...]
    together: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def load(self, expert: str, after: str | None = None, worker: int | None = None) -> float:
        """Seconds to make an expert ready on a worker where expert `after`, or nothing, is ready."""
        same_model = after is not None and self.models.get(after) == self.models[expert]
        asleep = worker is not None and self.models[expert] in self.workers[worker].asleep
        return self.costs[expert].after(after == expert, same_model, asleep)

    def fits(self, expert: str, worker: int) -> bool:
        """Whether an expert's weights fit in a worker's memory."""
        memory = self.workers[worker].memory
        return memory is None or self.costs[expert].bytes <= memory


class Instance:
    """A problem as numbers: experts and workers are indices. Experts without requests are left out.

    A worker's seconds are the sum of its requests, a `swap` for each expert that is not ready, and for each model
    without an engine `alive` (running or asleep) a start: what a first load costs above a swap (`first`), of its
    experts the least. This holds if experts of one model run consecutively, which `ordered` ensures.
    """

    def __init__(self, problem: Problem) -> None:
        if not problem.workers:
            raise PoolError("there is no worker to plan for", hint="give at least one")
        self.names = [name for name, count in problem.requests.items() if count > 0]
        costs = [problem.costs[name] for name in self.names]
        self.counts = [problem.requests[name] for name in self.names]
        self.request = [cost.request for cost in costs]
        self.swap = [cost.same_model for cost in costs]
        self.first = [max(cost.load - cost.same_model, 0.0) for cost in costs]
        self.workers = range(len(problem.workers))
        models = {name: place for place, name in enumerate(dict.fromkeys(problem.models.values()))}
        self.model = [models[problem.models[name]] for name in self.names]
        least: dict[int, float] = {}
        for model, dearer in zip(self.model, self.first, strict=True):
            least[model] = min(least.get(model, math.inf), dearer)
        self.start = [least[model] for model in self.model]
        self.resident = [self._place(worker.resident) for worker in problem.workers]
        self.running = [models.get(problem.models.get(w.resident, ""), -1) for w in problem.workers]
        self.alive = [
            {running, *(models[name] for name in worker.asleep if name in models)}
            for running, worker in zip(self.running, problem.workers, strict=True)
        ]
        self.fits = [[problem.fits(name, worker) for worker in self.workers] for name in self.names]
        self.rooms = [self._rooms(expert) for expert in self.experts]
        for name, fits in zip(self.names, self.fits, strict=True):
            if not any(fits):
                raise PoolError(f"expert {name!r} fits in no worker's memory", hint="raise the memory, or leave it out")

    @property
    def experts(self) -> range:
        """The indices of the experts."""
        return range(len(self.names))

    def least_load(self, expert: int, worker: int) -> float:
        """Seconds that a worker needs at least to make an expert ready, including the start of its model."""
        if self.resident[worker] == expert:
            return 0.0
        return self.swap[expert] + (0.0 if self.model[expert] in self.alive[worker] else self.start[expert])

    def seconds(self, worker: int, pieces: Mapping[int, int]) -> float:
        """Seconds that a worker takes for its pieces."""
        total = 0.0
        least: dict[int, float] = {}
        for expert, count in pieces.items():
            total += count * self.request[expert]
            if self.resident[worker] != expert:
                total += self.swap[expert]
            model = self.model[expert]
            if model not in self.alive[worker]:
                least[model] = min(least.get(model, math.inf), self.first[expert])
        return total + sum(least.values())

    def all_seconds(self, placement: Sequence[Mapping[int, int]]) -> list[float]:
        """Seconds that each worker takes."""
        return [self.seconds(worker, pieces) for worker, pieces in enumerate(placement)]

    def makespan(self, placement: Sequence[Mapping[int, int]]) -> float:
        """Seconds until the last worker is done."""
        return max(self.all_seconds(placement), default=0.0)

    def added(self, worker: int, pieces: Mapping[int, int], expert: int) -> float:
        """Seconds that loading one more expert would add to a worker."""
        if expert in pieces or self.resident[worker] == expert:
            return 0.0
        model = self.model[expert]
        if model in self.alive[worker]:
            return self.swap[expert]
        first_loads = [self.first[other] for other in pieces if self.model[other] == model]
        before = min(first_loads, default=0.0)
        return self.swap[expert] + min([*first_loads, self.first[expert]]) - before

    def by_size(self) -> list[int]:
        """Experts in order of load plus work, greatest first."""
        return sorted(self.experts, key=lambda e: (-self.size(e), e))

    def size(self, expert: int) -> float:
        """Seconds that an expert takes alone on a worker where nothing is ready."""
        return self.swap[expert] + self.first[expert] + self.counts[expert] * self.request[expert]

    def _rooms(self, expert: int) -> dict[float, int]:
        return Counter(self.least_load(expert, worker) for worker in self.workers if self.fits[expert][worker])

    def _place(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1


def lower_bound(instance: Instance) -> float:
    """A lower bound in seconds on the makespan of any schedule, however experts are split and placed.

    Bisection on T. A worker that loads expert e has room for ⌊(T - load_e) / request_e⌋ of its requests before T, so e
    needs at least a certain number of loads (`loads_needed`). All loads and work must fit into workers · T; and where
    experts of one model do not fit on the workers that run it, it must be started on others.
    """
    if not instance.names:
        return 0.0
    low, high = 0.0, sum(instance.size(expert) for expert in instance.experts)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _possible(instance, middle) else (middle, high)
    return low


def loads_needed(instance: Instance, expert: int, seconds: float) -> int | None:
    """The fewest workers that must load an expert for it to end in time; None if there are not that many.

    Workers where it is ready are not counted.
    """
    left, loads = instance.counts[expert], 0
    for load, workers in sorted(instance.rooms[expert].items()):
        room = _room(seconds - load, instance.request[expert], left)
        if left <= 0 or room <= 0:
            break
        taken = min(math.ceil(left / room), workers)
        left -= taken * room
        loads += taken if load > 0 else 0
    return loads if left <= 0 else None


def _possible(instance: Instance, seconds: float) -> bool:
    """False only if no schedule ends by then."""
    used: dict[int, float] = {}
    for expert in instance.experts:
        loads = loads_needed(instance, expert, seconds)
        if loads is None:
            return False
        needed = loads * instance.swap[expert] + instance.counts[expert] * instance.request[expert]
        used[instance.model[expert]] = used.get(instance.model[expert], 0.0) + needed
    running = Counter(model for alive in instance.alive for model in alive)
    start = dict(zip(instance.model, instance.start, strict=True))
    for model, needed in used.items():
        beyond = needed - running[model] * seconds
        if beyond <= seconds * _GRAIN or start[model] <= 0:
            continue
        starts = math.ceil(beyond / max(seconds - start[model], _GRAIN) - _GRAIN)
        if starts + running[model] > len(instance.workers):
            return False
        used[model] += starts * start[model]
    return sum(used.values()) <= len(instance.workers) * seconds * (1 + _GRAIN)


def _room(seconds: float, request: float, most: int) -> int:
    """How many requests fit into a time."""
    if seconds < 0:
        return 0
    return most if request * most <= seconds else math.floor(seconds / request * (1 + _GRAIN))
