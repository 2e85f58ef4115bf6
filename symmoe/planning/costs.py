"""The costs of experts in seconds: measured while plans run, kept in the store, estimated where nothing is measured."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from symmoe.protocols import Store
from symmoe.types import Candidate, Lane, Load, Observation, Rates, to_json

WINDOW = 15
"""How many of an expert's last observations of a kind count: old ones were made by another machine or version."""
_REBUILD_SECONDS = 8.2
_SWAP_SECONDS = 0.33
_WAKE_SECONDS = 0.02
_TOKENS_PER_SECOND = 700.0
_TOKENS = 48.0
_REBUILD: Lane = "rebuild"
_WAKE: Lane = "wake"
_SWAP: Lane = "swap"
_READY: Lane = "resident"
_UNMEASURED: dict[Lane, float] = {_REBUILD: _REBUILD_SECONDS, _WAKE: _WAKE_SECONDS, _SWAP: _SWAP_SECONDS}
"""What loads are told apart by, and what each took before anything was measured; all lanes in an engine are swaps."""
MOST_ROWS = 2000
"""From how many rows on only those that still count are kept."""


@dataclass(frozen=True, slots=True)
class ExpertCost:
    """Seconds that one expert costs: `load` where no engine of its model is alive, and `request` for each request.

    `swap` is what loading costs after an expert of the same model (None: as much as `load`), and `wake` what it costs
    where the engine of its model sleeps (None: as much as `swap`). `bytes` is the size of its weights, 0 if unknown.
    `request` is a mean over full batches: a step's seconds divided by its requests. `rates` are the bandwidths of
    storage and link that were measured when several machines read this model, or another of the pool, between them.
    """

    load: float
    request: float
    bytes: int = 0
    swap: float | None = None
    wake: float | None = None
    rates: Rates | None = None

    def saved(self, machines: int) -> float:
        """Seconds by which `load` shortens if so many machines share one reading of the model; 0 if unknown."""
        if self.rates is None or not self.bytes or machines < 2:
            return 0.0
        alone_seconds = self.bytes / self.rates.alone
        return min(max(alone_seconds - self.rates.gathered(self.bytes, machines), 0.0), self.load)

    @property
    def same_model(self) -> float:
        """Seconds to load it after an expert of the same model; never more than after another."""
        return self.load if self.swap is None else min(self.swap, self.load)

    @property
    def asleep(self) -> float:
        """Seconds to load it where the engine of its model sleeps; never more than a new one takes."""
        return self.same_model if self.wake is None else min(self.wake, self.load)

    def after(self, same_expert: bool, same_model: bool, asleep: bool = False) -> float:
        """Seconds to load it where it or an expert of its model is ready, or the engine of its model is asleep."""
        if same_expert:
            return 0.0
        return self.same_model if same_model else self.asleep if asleep else self.load


class CostModel:
    """Learns the costs of a pool's experts while they run.

    An estimate is the median of the last `WINDOW` observations of its kind, with steps weighted by their requests, so
    that one load from a cold disk or a step of one request does not move it. An expert that never ran is given the
    pool's median: seconds per byte for loads of a lane and seconds per token for requests where sizes are known. Before
    anything ran, it is what a 135M model took on two CPU cores: only the ratios matter for ordering experts.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        tokens: Mapping[str, float] | None = None,
        sizes: Mapping[str, int] | None = None,
        observations: Iterable[Observation] = (),
    ) -> None:
        self._models = dict(models)
        self._tokens = {name: count for name, count in (tokens or {}).items() if count > 0}
        self._sizes = dict(sizes or {})
        self._loads: dict[tuple[str, Lane], deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._requests: dict[str, deque[tuple[float, int]]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._rates: dict[str, Rates] = {}
        for observation in observations:
            self.observe(observation)

    def observe(self, seen: Observation) -> None:
        """Take one load or one step into account; call in order of time. Experts that left the pool are ignored."""
        if seen.expert not in self._models:
            return
        if seen.lane is None:
            if seen.requests:
                self._requests[seen.expert].append((seen.seconds / seen.requests, seen.requests))
        elif seen.lane != _READY:
            self._loads[seen.expert, _kind(seen.lane)].append(seen.seconds)
            self._sizes[seen.expert] = max(self._sizes.get(seen.expert, 0), seen.bytes)
            if seen.rates is not None:
                self._rates[self._models[seen.expert]] = seen.rates

    def load(self, expert: str, after: str | None = None) -> float:
        """Seconds to make an expert ready on a worker where expert `after`, or nothing, is ready."""
        same_model = after is not None and self._models.get(after) == self._models[expert]
        return self.cost(expert).after(after == expert, same_model)

    def cost(self, expert: str) -> ExpertCost:
        """The current estimate of an expert's costs."""
        rebuild, wake, swap = (self._loading(expert, kind) for kind in _UNMEASURED)
        rates = self._rates.get(self._models[expert]) or max(
            self._rates.values(), key=lambda each: each.measured, default=None
        )
        return ExpertCost(rebuild, self._request(expert), self._sizes.get(expert, 0), swap, wake, rates)

    def measured(self, expert: str) -> bool:
        """Whether both loads and requests of the expert were observed, so that its costs are not a guess."""
        return any((expert, kind) in self._loads for kind in _UNMEASURED) and expert in self._requests

    def costs(self) -> dict[str, ExpertCost]:
        """The costs of every expert of the pool."""
        return {expert: self.cost(expert) for expert in self._models}

    def _loading(self, expert: str, wanted: Lane) -> float:
        samples = self._loads.get((expert, wanted))
        if samples:
            return median(samples)
        others = {name: median(seen) for (name, kind), seen in self._loads.items() if kind == wanted and seen}
        return _by_size(others, self._sizes, expert, _UNMEASURED[wanted])

    def _request(self, expert: str) -> float:
        samples = self._requests.get(expert)
        if samples:
            return _weighted_median(samples)
        others = {name: _weighted_median(seen) for name, seen in self._requests.items() if seen}
        return _by_size(others, self._tokens, expert, self._tokens.get(expert, _TOKENS) / _TOKENS_PER_SECOND)


def _kind(lane: Lane) -> Lane:
    return lane if lane in _UNMEASURED else _SWAP


def _by_size(others: Mapping[str, float], sizes: Mapping[str, float], expert: str, default: float) -> float:
    """The others' median seconds, by size where this expert's and theirs are known."""
    rates = [seconds / sizes[name] for name, seconds in others.items() if sizes.get(name)]
    if rates and sizes.get(expert):
        return median(rates) * sizes[expert]
    return median(others.values()) if others else default


def _weighted_median(weighed: Sequence[tuple[float, int]] | deque[tuple[float, int]]) -> float:
    """The value at which half of the weight is reached."""
    ranked = sorted(weighed)
    half, reached = sum(weight for _, weight in ranked) / 2, 0.0
    for value, weight in ranked:
        reached += weight
        if reached >= half:
            return value
    return ranked[-1][0]


class StepTimes:
    """Measures the loads and steps of a run, which reports each load and each call's candidates as they come.

    A step lasts from its load to its last candidate. Where an expert runs on several workers at once, the seconds of
    its steps are added up.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._loads: list[Observation] = []
        self._ready: dict[str, list[float]] = {}
        self._last: dict[str, float] = {}
        self._requests: dict[str, int] = {}

    def load(self, load: Load) -> None:
        """Note that an expert is ready."""
        alone = load.seconds + load.saved
        self._loads.append(Observation(load.expert, alone, load.lane, load.bytes, rates=load.rates))
        self._ready.setdefault(load.expert, []).append(self._clock())

    def candidates(self, candidates: Sequence[Candidate]) -> None:
        """Note that a call is answered."""
        for expert in {candidate.expert for candidate in candidates}:
            self._requests[expert] = self._requests.get(expert, 0) + 1
            self._last[expert] = self._clock()

    def observations(self) -> tuple[Observation, ...]:
        """Every load, then every expert's step."""
        steps = (
            Observation(expert, sum(self._last[expert] - ready for ready in self._ready[expert]), requests=count)
            for expert, count in self._requests.items()
            if expert in self._ready
        )
        return (*self._loads, *steps)


def keep_observations(store: Store, pool: str, observations: Sequence[Observation]) -> None:
    """Append observations, in order, to those of a pool.

    Each has a key of its own, by time, because a row of the store keeps its first value. Beyond `MOST_ROWS` rows, those
    still in use move to a new table; what a concurrent writer adds to the old table is then lost, which does no harm.
    """
    if not observations:
        return
    generation = _generation(store, pool)
    table = _table(pool, generation)
    store.put(table, _rows(observations))
    kept = recall_observations(store, pool)
    if len(kept) > MOST_ROWS:
        store.put(_table(pool, generation + 1), _rows(_counting(kept)))
        store.put(_generations(pool), {f"{generation + 1:08d}": {}})
        store.drop([table])


def recall_observations(store: Store, pool: str) -> list[Observation]:
    """The observations of a pool, oldest first."""
    rows = store.rows(_table(pool, _generation(store, pool)))
    return [Observation.from_json(row) for _, row in sorted(rows.items())]


def _counting(observations: Sequence[Observation]) -> list[Observation]:
    """The last of each expert and lane, as many as a cost model looks at."""
    places: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for place, seen in enumerate(observations):
        places[seen.expert, seen.lane].append(place)
    return [observations[place] for place in sorted(p for found in places.values() for p in found[-WINDOW:])]


def _rows(observations: Sequence[Observation]) -> dict[str, dict[str, object]]:
    now, run = time.time_ns(), uuid.uuid4().hex[:8]
    return {f"{now:020d}-{run}-{number:06d}": to_json(seen) for number, seen in enumerate(observations)}


def _generation(store: Store, pool: str) -> int:
    return max(map(int, store.rows(_generations(pool))), default=0)


def _generations(pool: str) -> str:
    return f"costs:{pool}"


def _table(pool: str, generation: int) -> str:
    return f"costs:{pool}:{generation}"
