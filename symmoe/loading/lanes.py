"""Which lane makes an expert ready: the cheapest that gives the right weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from symmoe.protocols import Engine
from symmoe.types import Lane, Load


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """An expert as weights: the directory of its model, and of the adapter to merge in, if any."""

    model: str
    adapter: str | None = None


class LaneLoader:
    """Makes experts ready in one engine.

    resident: nothing to do · swap: same model, other weights · merged: same, with an adapter merged in ·
    rebuild: another model, so a new engine.
    """

    def __init__(
        self, engine: Engine, weights: Callable[[str], ExpertWeights], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._engine = engine
        self._weights = weights
        self._clock = clock
        self._resident: ExpertWeights | None = None

    def ready(self, expert: str) -> Load:
        """Make `expert` the one the engine serves. After an error nothing counts as resident."""
        wanted = self._weights(expert)
        lane, reason = self._choose(wanted)
        self._resident, resident = None, self._resident
        began = self._clock()
        moved = 0
        if lane == "rebuild":
            self._engine.start(wanted.model)
            if wanted.adapter:
                moved = self._engine.swap(wanted.model, wanted.adapter)
        elif lane != "resident":
            moved = self._engine.swap(wanted.model, wanted.adapter)
        self._resident = wanted if lane != "resident" else resident
        return Load(expert, lane, self._clock() - began, moved, reason)

    def start(self, expert: str) -> float:
        """Start the engine on the expert's model ahead of its first use, so that its cost is told apart; seconds."""
        model = self._weights(expert).model
        if self._engine.model == model:
            return 0.0
        began = self._clock()
        self._resident = None
        self._engine.start(model)
        self._resident = ExpertWeights(model)
        return self._clock() - began

    def _choose(self, wanted: ExpertWeights) -> tuple[Lane, str]:
        if self._resident == wanted and self._engine.model == wanted.model:
            return "resident", "its weights are in the engine"
        if self._engine.model != wanted.model:
            return "rebuild", "another model: needs an engine of its own"
        if wanted.adapter:
            return "merged", "same base as the engine: adapter merged, weights swapped in place"
        return "swap", "same model as the engine: weights swapped in place"
