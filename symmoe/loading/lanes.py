"""Chooses the lane that makes an expert ready: the cheapest that gives the right weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from symmoe.protocols import Engine
from symmoe.types import Image, Lane, Load


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """An expert's weights: the directory of its model, and that of the adapter to merge in, if any."""

    model: str
    adapter: str | None = None


class Images(Protocol):
    """Experts' weights as images: packed tensors in memory that an engine can map."""

    def key(self, weights: ExpertWeights) -> str:
        """A key for these weights: equal keys mean equal bytes."""
        ...

    def shape(self, model: str) -> str:
        """A key for the engine that a model needs: models of equal shape can share one."""
        ...

    def tags(self, model: str) -> Mapping[str, str]:
        """The tag of each tensor of a model: equal tags mean equal bytes."""
        ...

    def hold(self, weights: ExpertWeights) -> AbstractContextManager[Image]:
        """The image of these weights, made if need be, kept in place for the with-block."""
        ...

    def expect(self, weights: Sequence[ExpertWeights]) -> None:
        """Set what comes next, soonest first, and begin with the first."""
        ...


@runtime_checkable
class StartingAhead(Protocol):
    """An engine that may start before it is asked to."""

    @property
    def seconds_ahead(self) -> float:
        """How many seconds it had been starting before anybody waited for it."""
        ...


class LaneLoader:
    """Makes experts ready, each in an engine of its shape.

    resident: nothing to do · adapter: LoRA applied by the engine · held: the engine still has the weights in its own
    format · swap: a model of the same shape, written in place · merged: the same with an adapter merged in · wake:
    another shape, whose engine sleeps, with the expert in it or after one of the lanes above · rebuild: a new engine,
    which may have been started ahead.
    """

    def __init__(
        self,
        engine: Engine,
        weights: Callable[[str], ExpertWeights],
        images: Images,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._weights = weights
        self._images = images
        self._clock = clock
        self._inside: dict[int, ExpertWeights | None] = {}
        """What is in each engine that was started, by its number; None where nobody knows."""

    def ready(self, expert: str) -> Load:
        """Make `expert` the one that the engine serves. After an error nothing counts as resident."""
        wanted = self._weights(expert)
        began = self._clock()
        if self._engine.model == wanted.model and self._there() == wanted:
            return Load(expert, "resident", self._clock() - began, 0, "its weights are in the engine")
        try:
            lane, reason, moved = self._bring(wanted)
        except BaseException:
            self._inside[self._engine.started] = None
            raise
        fresh = self._engine.started not in self._inside
        self._inside[self._engine.started] = wanted
        saved = self._engine.seconds_ahead if fresh and isinstance(self._engine, StartingAhead) else 0.0
        return Load(expert, lane, self._clock() - began, moved, reason, saved)

    def model(self, expert: str) -> str:
        """The directory of an expert's model."""
        return self._weights(expert).model

    def expect(self, experts: Sequence[str]) -> None:
        """Set the experts that come next, soonest first: the first is fetched while another generates."""
        weights, running = [self._weights(expert) for expert in experts], self._engine.model
        if running is not None:
            self._engine.expect([(self._images.key(each), each.model) for each in weights])
            shape = self._images.shape(running)  # a model of another shape is read by its engine itself
            weights = [each for each in weights if each.adapter or self._images.shape(each.model) == shape]
        self._images.expect(weights)

    def start(self, expert: str) -> float:
        """Start the engine on the expert's model before its first use, to measure that separately; returns seconds."""
        model = self._weights(expert).model
        if self._engine.model == model:
            return 0.0
        began = self._clock()
        self._engine.start(model, self._images.tags(model))
        return self._clock() - began

    def _there(self) -> ExpertWeights | None:
        """What is in the running engine: what was put in last, or the model that it was started with."""
        model = self._engine.model
        return self._inside.get(self._engine.started, None if model is None else ExpertWeights(model))

    def _bring(self, wanted: ExpertWeights) -> tuple[Lane, str, int]:
        running = self._engine.model
        if running is not None and self._images.shape(running) == self._images.shape(wanted.model):
            return self._change(wanted)
        if not self._engine.wake(wanted.model):
            return self._rebuild(wanted)
        slept = self._engine.started in self._inside
        lane: Lane = "wake" if slept else "rebuild"
        why = "a model of another shape: its engine slept" if slept else "a new engine, started ahead"
        if self._there() == wanted:
            return lane, f"{why}, and wakes with the expert in it", 0
        way, _, moved = self._change(wanted)
        return lane, f"{why}, and the expert is put into it ({way})", moved

    def _change(self, wanted: ExpertWeights) -> tuple[Lane, str, int]:
        """Put an expert into the running engine, which is of its shape."""
        if self._engine.model == wanted.model and self._engine.adapt(wanted.adapter):
            return "adapter", "same model as the engine's: it applies the adapter, or none, to each request", 0
        if self._engine.rebind(self._images.key(wanted), wanted.model):
            return "held", "the engine still holds its weights in its own format", 0
        moved = self._swap(wanted)
        if wanted.adapter:
            return "merged", "same shape as the engine's model: adapter merged, what differs written in place", moved
        return "swap", "same shape as the engine's model: what differs written in place", moved

    def _rebuild(self, wanted: ExpertWeights) -> tuple[Lane, str, int]:
        self._engine.start(wanted.model, self._images.tags(wanted.model))
        applied = wanted.adapter is None or self._engine.adapt(wanted.adapter)
        moved = 0 if applied else self._swap(wanted)
        return "rebuild", "a model of another shape, and no engine of it sleeps: needs a new one", moved

    def _swap(self, wanted: ExpertWeights) -> int:
        with self._images.hold(wanted) as image:
            return self._engine.swap(image)
