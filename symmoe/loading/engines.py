"""Several engines alive within a memory budget, one of them awake, so that changing between shapes builds none.

When memory is short, the engine needed last in the known order is ended (Belady, as in `host_tier`); where nothing is
known, the least recently used.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from symmoe.errors import CapacityError, EngineError, EngineLostError, SymmoeError
from symmoe.loading.host_tier import KnownOrder, Resident, eviction_order, needed_later
from symmoe.loading.lanes import Images
from symmoe.protocols import Engine, SuspendableEngine
from symmoe.types import Call, Delta, EngineStats, Generation, Image, Prompt, Query, Refusal


class EngineSource(Protocol):
    """Makes engines."""

    def engine(self) -> SuspendableEngine:
        """A new engine, not started."""
        ...

    def prepare(self) -> None:
        """Begin work that needs no knowledge of which engine is wanted."""
        ...

    def close(self) -> None:
        """Release the source; no more engines are wanted."""
        ...


@dataclass(slots=True, eq=False)
class _Alive:
    """An engine that has a process: what it takes up awake, at most, and asleep."""

    engine: SuspendableEngine
    number: int
    awake: int
    asleep: int
    last_use: int
    starting: Future[float] | None = None
    ahead: float = 0.0


class SleepingEngines:
    """An engine for each shape, alive as far as `budget` bytes allow; calls go to the one awake.

    `front` refuses queries and is never started. `needs` gives the most bytes that an engine awake with a model takes.
    A sleeping engine keeps its weights and what was swapped into it. One that died counts as never started: `wake` does
    not find it, and if it was awake, `EngineLostError` is raised. With `ahead`, the next engine in the known order
    starts while the one awake generates, if no engine needed sooner must be ended for it.
    """

    def __init__(
        self,
        front: Engine,
        source: EngineSource,
        images: Images,
        needs: Callable[[str], int],
        budget: int,
        ahead: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._front, self._source, self._images, self._needs = front, source, images, needs
        self.budget, self._ahead, self._clock = budget, ahead, clock
        self._lock = threading.RLock()
        self._alive: dict[str, _Alive] = {}
        self._awake: str | None = None
        self._order = KnownOrder()
        self._numbers, self._uses = itertools.count(1), itertools.count()

    @property
    def model(self) -> str | None:
        """The directory of the model in the engine that is awake."""
        awake = self._alive.get(self._awake or "")
        return awake.engine.model if awake else None

    @property
    def started(self) -> int:
        """The number of the engine that is awake."""
        awake = self._alive.get(self._awake or "")
        return awake.number if awake else 0

    @property
    def seconds_ahead(self) -> float:
        """How many seconds the engine that is awake had been starting before anybody waited for it."""
        awake = self._alive.get(self._awake or "")
        return awake.ahead if awake else 0.0

    @property
    def asleep(self) -> tuple[str, ...]:
        """The directories of the models whose engines sleep, most recently used first."""
        with self._lock:
            suspended = [one for shape, one in self._alive.items() if shape != self._awake and one.starting is None]
            models = [one.engine.model for one in sorted(suspended, key=lambda one: -one.last_use)]
        return tuple(model for model in models if model is not None)

    @property
    def used(self) -> int:
        """Bytes reserved for engines that are alive: for those awake or starting, all that they may take."""
        with self._lock:
            return sum(
                one.awake if shape == self._awake or one.starting else one.asleep for shape, one in self._alive.items()
            )

    @property
    def processes(self) -> list[int]:
        """The process ids of the live engines: the one awake, then those asleep, most recently used first."""
        with self._lock:
            shapes = sorted(self._alive, key=lambda shape: (shape != self._awake, -self._alive[shape].last_use))
            pids = [self._alive[shape].engine.pid for shape in shapes]
        return [pid for pid in pids if pid is not None]

    def prepare(self, model: str | None = None) -> None:
        """Begin work that needs no knowledge of which engine is wanted first; start that of `model`, if given."""
        self._source.prepare()
        if model is not None and not self._alive:
            self._start_ahead(model)

    def refuse(self, queries: Sequence[Query], model: str | None = None) -> list[Refusal | None]:
        """Refuse as the engines would."""
        return self._front.refuse(queries, model)

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        """Start an engine and make it the one awake, replacing one of its shape. Raises `CapacityError`."""
        shape, needed = self._images.shape(model), self._needs(model)
        self._end(shape)
        self._let_sleep()
        self._make_room(needed)
        engine = self._source.engine()
        with self._lock:
            self._alive[shape] = _Alive(engine, next(self._numbers), needed, needed, next(self._uses))
            self._awake = shape
        try:
            engine.start(model, tags)
        except BaseException:
            self._end(shape)
            raise

    def wake(self, model: str) -> bool:
        """Switch to the engine of a model's shape; False if none is alive, or it has died.

        Raises `EngineError` for one that could not be started ahead.
        """
        shape = self._images.shape(model)
        found = self._alive.get(shape)
        if found is None:
            return False
        if shape == self._awake:
            return True
        self._settle(found)
        try:
            self._let_sleep()
            self._make_room(found.awake - found.asleep, keep=shape)
            found.engine.resume()
        except SymmoeError:
            self._end(shape)
            return False
        with self._lock:
            self._awake, found.last_use = shape, next(self._uses)
            self._order.used(shape)
        return True

    def swap(self, image: Image) -> int:
        """Write weights into the engine that is awake."""
        with self._current() as engine:
            return engine.swap(image)

    def rebind(self, key: str, model: str) -> bool:
        """Serve weights that the engine awake still holds."""
        with self._current() as engine:
            return engine.rebind(key, model)

    def adapt(self, adapter: str | None) -> bool:
        """Have the engine awake apply an adapter."""
        with self._current() as engine:
            return engine.adapt(adapter)

    def expect(self, coming: Sequence[tuple[str, str]]) -> None:
        """Set the experts that come next, and begin to start the first engine that is missing."""
        shapes = [self._images.shape(model) for _, model in coming]
        with self._lock:
            self._order = KnownOrder(shape for shape, _ in itertools.groupby(shapes))
        with self._current() as engine:
            engine.expect([one for one, shape in zip(coming, shapes, strict=True) if shape == self._awake])
        missing = (model for (_, model), shape in zip(coming, shapes, strict=True) if shape not in self._alive)
        first = next(missing, None)
        if self._ahead and first is not None:
            self._start_ahead(first)

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        """Generate with the engine that is awake."""
        with self._current() as engine:
            yield from engine.generate(calls)

    def add(self, ident: str, query: Query, stream: bool, prompt: Prompt | None = None) -> Refusal | None:
        """Add a call to the engine that is awake."""
        with self._current() as engine:
            return engine.add(ident, query, stream, prompt)

    def step(self) -> list[Delta]:
        """Run one step of the engine that is awake."""
        with self._current() as engine:
            return engine.step()

    def abort(self, idents: Sequence[str]) -> None:
        """Abort these calls. If their engine is lost, the next step raises that."""
        if self._awake is not None:
            with suppress(EngineLostError):
                self._alive[self._awake].engine.abort(idents)

    def stats(self) -> EngineStats | None:
        """What the engine awake counted; None where none is."""
        if self._awake is None:
            return None
        with self._current() as engine:
            return engine.stats()

    def close(self) -> None:
        """End every engine. Safe to call twice."""
        for one in list(self._alive.values()):
            one.engine.close()  # also ends one that is just starting
        for shape in list(self._alive):
            self._end(shape)
        self._source.close()
        self._front.close()

    @contextmanager
    def _current(self) -> Iterator[SuspendableEngine]:
        """The engine that is awake. If it is found dead meanwhile it is taken off the list."""
        shape = self._awake
        if shape is None:
            raise EngineError("no engine is awake")
        try:
            yield self._alive[shape].engine
        except EngineLostError:
            self._end(shape)
            raise

    def _let_sleep(self) -> None:
        """Put the engine that is awake to sleep, or end it if it cannot."""
        shape = self._awake
        if shape is None:
            return
        one = self._alive[shape]
        try:
            kept = one.engine.suspend()
        except SymmoeError:
            self._end(shape)
            return
        with self._lock:
            one.asleep, one.awake, self._awake = kept, max(one.awake, kept), None

    def _make_room(self, nbytes: int, keep: str | None = None) -> None:
        """End sleeping engines until so many more bytes fit into the budget. Raises `CapacityError` if they cannot."""
        while True:
            with self._lock:
                missing = self.used + nbytes - self.budget
                leaving = [key for key in eviction_order(self._evictable()) if key != keep]
                pending = [one for one in self._alive.values() if one.starting]
            if missing <= 0:
                return
            if leaving:
                self._end(leaving[0])
            elif pending:
                self._settle(pending[0])
            else:
                raise CapacityError(
                    f"an engine needs {nbytes / 1e9:.1f} GB of memory, which is {missing / 1e9:.1f} GB more than"
                    f" engines may take ({self.budget / 1e9:.1f} GB)",
                    hint="raise engine.memory_gib in the pool file, lower engine.kv_cache_gib, or use a smaller model",
                )

    def _evictable(self) -> list[Resident]:
        return [
            Resident(shape, self._order.next_use(shape), one.last_use)
            for shape, one in self._alive.items()
            if shape != self._awake and one.starting is None
        ]

    def _start_ahead(self, model: str) -> None:
        """Start an engine in a thread and put it to sleep, if there is room without what is needed sooner."""
        shape, needed = self._images.shape(model), self._needs(model)
        with self._lock:
            if any(one.starting for one in self._alive.values()):
                return
            later = needed_later(self._evictable(), self._order.next_use(shape))
            if self.used + needed - sum(self._alive[one.key].asleep for one in later) > self.budget:
                return
            for key in eviction_order(later):
                if self.used + needed <= self.budget:
                    break
                self._end(key)
            engine, tags = self._source.engine(), self._images.tags(model)
            one = _Alive(engine, next(self._numbers), needed, needed, next(self._uses))
            self._alive[shape] = one
            one.starting = starting = Future[float]()
        # a daemon: a command that ends meanwhile does not wait for it
        arguments = (one, starting, model, tags)
        threading.Thread(target=self._start_asleep, args=arguments, name="start-engine", daemon=True).start()

    def _start_asleep(self, one: _Alive, starting: Future[float], model: str, tags: Mapping[str, str]) -> None:
        """Start an engine and put it to sleep; `starting` gets the seconds that this took."""
        began = self._clock()
        try:
            with self._lock:
                if not any(other is one for other in self._alive.values()):
                    raise EngineLostError("the engine was ended before it started")
            one.engine.start(model, tags)
            one.asleep = one.engine.suspend()
        except BaseException as error:  # for whoever waits
            starting.set_exception(error)
        else:
            starting.set_result(self._clock() - began)

    def _settle(self, one: _Alive) -> None:
        """Wait until an engine is started; if it could not be, it is taken off the list, and that is raised."""
        if one.starting is None:
            return
        began = self._clock()
        try:
            took = one.starting.result()
        except BaseException:
            for shape in [shape for shape, other in self._alive.items() if other is one]:
                self._end(shape)
            raise
        one.starting, one.ahead = None, max(took - (self._clock() - began), 0.0)

    def _end(self, shape: str) -> None:
        with self._lock:
            one = self._alive.pop(shape, None)
            if shape == self._awake:
                self._awake = None
        if one is not None:
            one.engine.close()
