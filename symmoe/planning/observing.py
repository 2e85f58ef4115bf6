"""What loads and steps took, taken down while a plan runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from symmoe.types import Candidate, Load, Observation


class StepTimes:
    """Takes the time of a run's loads and steps, told of each load and of each call's candidates as they come.

    A step lasts from its load to its last candidate. Where an expert runs on several workers at once, its steps are
    taken together: their seconds add up.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._loads: list[Observation] = []
        self._ready: dict[str, list[float]] = {}
        self._last: dict[str, float] = {}
        self._requests: dict[str, int] = {}

    def load(self, load: Load) -> None:
        """An expert is ready."""
        self._loads.append(Observation(load.expert, load.seconds, load.lane, load.bytes))
        self._ready.setdefault(load.expert, []).append(self._clock())

    def candidates(self, candidates: Sequence[Candidate]) -> None:
        """A call is answered."""
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
