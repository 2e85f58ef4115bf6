"""What experts cost in seconds: learned from what loads and steps took, guessed for experts that never ran."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from symmoe.types import Lane, Observation

WINDOW = 15
"""How many of an expert's last observations of a kind count: old ones were made by another machine or version."""
_REBUILD_SECONDS = 8.2
_SWAP_SECONDS = 0.33
_TOKENS_PER_SECOND = 700.0
_TOKENS = 48.0
_REBUILD: Lane = "rebuild"
_READY: Lane = "resident"


@dataclass(frozen=True, slots=True)
class ExpertCost:
    """What one expert costs: seconds to load it after an expert of another model, and of each request once loaded.

    `swap` is what loading costs after an expert of the same model, as much as `load` where it is None; `bytes` are its
    weights, 0 where unknown. `request` is the mean over a full batch, a step's seconds by its requests.
    """

    load: float
    request: float
    bytes: int = 0
    swap: float | None = None

    @property
    def same_model(self) -> float:
        """Seconds to load it after an expert of the same model; never more than after another."""
        return self.load if self.swap is None else min(self.swap, self.load)

    def after(self, same_expert: bool, same_model: bool) -> float:
        """Seconds to load it after an expert that is itself, or of its model, or neither."""
        return 0.0 if same_expert else self.same_model if same_model else self.load


class CostModel:
    """Learns the costs of a pool's experts while they run.

    An estimate is the median of the last `WINDOW` observations of its kind, requests weighted by how many a step had: a
    load from a cold disk or a step of one request does not move it. An expert that never ran is given the pool's median
    seconds, by byte for loads of a lane and by token for requests where sizes are known; and before anything ran, what
    a 135M model took on two CPU cores, since any order of magnitude orders experts well enough.
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
        self._loads: dict[tuple[str, bool], deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._requests: dict[str, deque[tuple[float, int]]] = defaultdict(lambda: deque(maxlen=WINDOW))
        for observation in observations:
            self.observe(observation)

    def observe(self, seen: Observation) -> None:
        """Take one load or one step into account, oldest first. Experts that the pool has no more are passed over."""
        if seen.expert not in self._models:
            return
        if seen.lane is None:
            if seen.requests:
                self._requests[seen.expert].append((seen.seconds / seen.requests, seen.requests))
        elif seen.lane != _READY:
            self._loads[seen.expert, seen.lane == _REBUILD].append(seen.seconds)
            self._sizes[seen.expert] = max(self._sizes.get(seen.expert, 0), seen.bytes)

    def load(self, expert: str, after: str | None = None) -> float:
        """Seconds to make an expert ready on a worker that has another ready, or nothing."""
        same_model = after is not None and self._models.get(after) == self._models[expert]
        return self.cost(expert).after(after == expert, same_model)

    def cost(self, expert: str) -> ExpertCost:
        """An expert's costs as they are estimated now."""
        rebuild, swap = self._loading(expert, True), self._loading(expert, False)
        return ExpertCost(rebuild, self._request(expert), self._sizes.get(expert, 0), swap)

    def measured(self, expert: str) -> bool:
        """Whether the expert's loads and requests were both seen, so that its costs are no guess."""
        return any((expert, kind) in self._loads for kind in (True, False)) and expert in self._requests

    def costs(self) -> dict[str, ExpertCost]:
        """The costs of every expert of the pool."""
        return {expert: self.cost(expert) for expert in self._models}

    def _loading(self, expert: str, rebuilt: bool) -> float:
        own = self._loads.get((expert, rebuilt))
        if own:
            return median(own)
        others = {name: median(seen) for (name, kind), seen in self._loads.items() if kind == rebuilt and seen}
        default = _REBUILD_SECONDS if rebuilt else _SWAP_SECONDS
        return _by_size(others, self._sizes, expert, default)

    def _request(self, expert: str) -> float:
        own = self._requests.get(expert)
        if own:
            return _weighted_median(own)
        others = {name: _weighted_median(seen) for name, seen in self._requests.items() if seen}
        return _by_size(others, self._tokens, expert, self._tokens.get(expert, _TOKENS) / _TOKENS_PER_SECOND)


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
