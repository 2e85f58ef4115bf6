"""The thread that owns one engine: it alone loads experts, adds calls and takes steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any, cast

from symmoe.build import Assembly
from symmoe.config import ExpertConfig
from symmoe.engines.readers import Parted
from symmoe.errors import EngineLostError, SymmoeError
from symmoe.loading.engines import SleepingEngines
from symmoe.planning.turns import Turns, Waiting
from symmoe.protocols import StreamingEngine
from symmoe.types import EngineStats, Load

from .events import Asked, Begun, EngineState, Event, TurnedAway, ended, finished, overloaded, piece, unready
from .staging import on_cluster, staged_load

Tell = Callable[[Sequence[tuple[str, Event]]], None]
_FAILURES = 3
_LOOK_SECONDS = 0.2
_COUNT_SECONDS = 1.0


class EngineLoop:
    """Runs requests on one engine in the order of `turns`, and reports their events: `(id, event)`, in order.

    `tell` is called in this thread and must not block. If an expert cannot be made ready, only the requests waiting for
    it fail. After a failed step the engine's state is unknown: it is built anew or, if it was one of several and only
    its process ended, started again when next wanted. Requests that were running may be retried, except those held to a
    schema, which are known to end engines; those that had completed a step before are reported as bystanders. After
    three failures in a row without a successful step the loop gives up and is no longer `healthy`.
    """

    def __init__(
        self,
        build: Callable[[], Assembly],
        turns: Turns,
        tell: Tell,
        stall: float,
        slowest_load: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._build, self._turns, self._tell, self._clock = build, turns, tell, clock
        self._stall, self._slowest_load = stall, slowest_load
        self.assembly: Assembly | None = None
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._asked: dict[str, Asked] = {}
        self._parted: dict[str, Parted] = {}
        self._built: set[str] = set()
        self._newcomers: dict[str, ExpertConfig] = {}
        self._load: Load | None = None
        self._fresh = False
        self._untried: set[str] = set()
        self._failures = 0
        self._stats: dict[str, EngineStats] = {}
        self._uncounted: str | None = None
        self._counted = 0.0
        self._expected: float | None = None
        self._stopping = False
        self.state, self._looked = EngineState(None, None, 0, {}), 0.0
        self.warm, self.trouble = Flag(), ""
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    def start(self, first: Callable[[], str | None]) -> None:
        """Start the thread and make an expert ready: the one that `first`, called in this thread, names, or another.

        `warm` is set when that is done. If none can be made ready, the loop gives up.
        """
        self._inbox.put(lambda: self._warm_up(first))
        self._thread.start()

    def submit(self, asked: Asked) -> None:
        """Queue a request. Safe from any thread."""
        arrived = self._clock()
        self._inbox.put(lambda: self._arrive(asked, arrived))

    def cancel(self, ident: str) -> None:
        """Cancel a request; no more of its events are reported. Safe from any thread."""
        self._inbox.put(lambda: self._cancel(ident))

    def stop(self) -> None:
        """End the thread and the engine. Waits for the step under way."""
        self._inbox.put(self._end)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def healthy(self) -> bool:
        """False if the thread has given up, or takes too long for a step or a load."""
        expected = self._expected
        stalled = expected is not None and self._clock() > expected
        return (self._thread.is_alive() or self._stopping) and not stalled

    def _run(self) -> None:
        while not self._stopping and self._failures < _FAILURES:
            self._take_in()
            self._expected = self._clock() + self._stall
            self._turn_away(self._turns.overdue(self._clock()), self._late)
            try:
                self._work()
            except Exception as error:  # an engine's parts raise what they like, and the replica must outlive it
                self._lose(error)
            self._expected = None
        for ident in list(self._asked):
            self._give(ident, TurnedAway(503, "expert_lost", "the engine has stopped", 1.0, again=True))
        if self.assembly is not None:
            self.assembly.close()

    def _take_in(self) -> None:
        """Everything that has come in; waits for something if there is nothing else to do."""
        due = self._turns.next_due()
        patience = None if due is None else max(0.0, due - self._clock())
        idle = not self._turns.running and self._turns.switch(self._clock()) is None and not self._startable()
        self._look(at_once=idle)
        try:
            if idle:
                self._inbox.get(timeout=patience)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _look(self, loading: str | None = None, at_once: bool = False) -> None:
        """Note what the engine is at, for other threads: now and then, where it is not `at_once`."""
        now = self._clock()
        if at_once or now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            waiting, engine = dict(self._turns.waiting), None if self.assembly is None else self.assembly.engine
            asleep = tuple(map(os.path.basename, engine.asleep)) if isinstance(engine, SleepingEngines) else ()
            self.state = EngineState(
                self._turns.resident, loading, self._turns.running, waiting, asleep, stats=dict(self._stats)
            )

    def _startable(self) -> bool:
        return bool(self._turns.resident and self._turns.waiting[self._turns.resident])

    def _work(self) -> None:
        preempted = [waiting.id for waiting in self._turns.give_way(self._clock())]
        if preempted:
            self._engine().abort(preempted)
        expert = self._turns.switch(self._clock())
        if expert is not None:
            self._ready(expert)
        for waiting in self._turns.begin(self._clock()):
            self._begin(waiting)
        if self._turns.running:
            self._step()
            self._uncounted = self._turns.resident
        if self._uncounted and (not self._turns.running or self._clock() - self._counted >= _COUNT_SECONDS):
            self._count(self._uncounted)

    def _count(self, expert: str) -> None:
        """Add what the engine has counted to what it did for this expert, whose turn is not over."""
        self._uncounted, self._counted = None, self._clock()
        stats, before = self._engine().stats(), self._stats.get(expert)
        if stats is not None:
            self._stats[expert] = stats if before is None else before.then(stats)

    def _ready(self, expert: str) -> None:
        if self._uncounted:
            self._count(self._uncounted)
        self._expected = self._clock() + self._slowest_load
        self._look(expert, at_once=True)
        try:
            load = staged_load(self._parts(), expert)
        except SymmoeError as error:
            why = unready(expert, error)
            self.trouble = why.message
            self._turn_away(self._turns.failed(expert), lambda _: why)
            return
        finally:
            self._expected = self._clock() + self._stall
        self._load, self._fresh = load, True
        first = load.lane == "rebuild" and expert not in self._built  # from now on its engine sleeps and wakes
        self._built.add(expert)
        self._turns.loaded(expert, load.seconds, self._clock(), once=first)
        self._parts().loader.expect([other for other in self._turns.wanted if other != expert])

    def _begin(self, waiting: Waiting) -> None:
        asked, load = self._asked[waiting.id], self._load
        self._untried.add(waiting.id)
        try:
            reader = self._parts().reader(asked.expert)
        except SymmoeError as error:
            self._turns.leave(waiting.id)
            self._give(waiting.id, unready(asked.expert, error))
            return
        if reader is not None:
            self._parted[waiting.id] = Parted(reader, asked.query.sampling)
        refusal = self._engine().add(waiting.id, asked.query, asked.stream, asked.prompt)
        if refusal is not None:
            self._turns.leave(waiting.id)
            self._give(waiting.id, TurnedAway(400, refusal.code, refusal.message, spent=refusal.tokens))
            return
        first, self._fresh = self._fresh, False
        seconds, lane = (load.seconds, load.lane) if load is not None and first else (0.0, "resident")
        tokens = len(asked.prompt.ids) if asked.prompt else 0
        self._tell([(waiting.id, Begun(self._clock() - waiting.arrived, seconds, cast(Any, lane), first, tokens))])

    def _step(self) -> None:
        deltas = self._engine().step()
        self._failures = 0
        self._untried.clear()
        events: list[tuple[str, Event]] = []
        for delta in deltas:
            if delta.id not in self._asked:
                continue
            asked, parted = self._asked[delta.id], self._parted.get(delta.id)
            new_piece = piece(delta.text, delta.logprobs, parted)
            events += [(delta.id, new_piece)] if new_piece and asked.stream else []
            if delta.generation is not None:
                generation, last_piece = finished(delta.generation, parted)
                events += [(delta.id, last_piece)] if last_piece and asked.stream else []
                events.append((delta.id, ended(generation, asked.query.sampling.schema is not None)))
                del self._asked[delta.id]
                self._parted.pop(delta.id, None)
                self._turns.leave(delta.id, self._clock())
        if events:
            self._tell(events)

    def _lose(self, error: Exception) -> None:
        """The engine failed: build another, and let what it was running be tried again."""
        self._failures += 1
        message = f"the engine failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        self.trouble, self._uncounted = message, None
        untried, self._untried = self._untried, set()

        def lost(waiting: Waiting) -> TurnedAway:
            schema_bound = waiting.id in self._asked and self._asked[waiting.id].query.sampling.schema is not None
            return TurnedAway(
                503, "expert_lost", message, 1.0, again=not schema_bound, bystander=waiting.id not in untried
            )

        self._turn_away(self._turns.lost(), lost)
        if isinstance(error, EngineLostError):
            return  # it had a process of its own, and the others are well
        assembly, self.assembly = self.assembly, None
        if assembly is not None:
            try:
                assembly.close()
            except Exception:
                self._failures = _FAILURES  # what it held cannot be had again in this process

    def _arrive(self, asked: Asked, arrived: float) -> None:
        self._asked[asked.id] = asked
        if asked.newcomer is not None:
            self._learn(asked.newcomer)
        due = arrived + asked.patience
        out = self._turns.arrive(Waiting(asked.id, asked.expert, asked.key, arrived, due, asked.background))
        if out is not None:
            self._turn_away([out], lambda _: overloaded(self._turns.wait()))

    def _learn(self, expert: ExpertConfig) -> None:
        if self._newcomers.get(expert.name) != expert:
            self._newcomers[expert.name] = expert
            self._turns.changed(expert.name)
            if self.assembly is not None:
                self.assembly.learn(expert)

    def _cancel(self, ident: str) -> None:
        self._parted.pop(ident, None)
        if self._asked.pop(ident, None) is not None:
            self._turns.leave(ident)
            if self.assembly is not None:
                self._engine().abort([ident])

    def _warm_up(self, first: Callable[[], str | None]) -> None:
        try:
            expert = first()
            if expert is not None:
                self._ready(expert)
                others = (name for name in self._parts().pool.names if name != expert)
                while self._turns.resident is None:
                    self._ready(next(others))
        except StopIteration:
            self._failures = _FAILURES  # none of them can answer
            return
        except Exception as error:
            self._lose(error)
            if self._failures < _FAILURES:
                self._inbox.put(lambda: self._warm_up(first))
            return
        finally:
            self._expected = None
        self.warm.set()

    def _end(self) -> None:
        self._stopping = True

    def _late(self, waiting: Waiting) -> TurnedAway:
        waited = self._clock() - waiting.arrived
        return TurnedAway(503, "waited_too_long", f"no expert was free within {waited:.0f} s", 1.0)

    def _turn_away(self, requests: Sequence[Waiting], why: Callable[[Waiting], TurnedAway]) -> None:
        for waiting in requests:
            self._give(waiting.id, why(waiting))

    def _give(self, ident: str, last: TurnedAway) -> None:
        self._parted.pop(ident, None)
        if self._asked.pop(ident, None) is not None:
            self._tell([(ident, last)])

    def _parts(self) -> Assembly:
        if self.assembly is None:
            self.assembly = on_cluster(self._build())
            for expert in self._newcomers.values():
                self.assembly.learn(expert)
        return self.assembly

    def _engine(self) -> StreamingEngine:
        return cast(StreamingEngine, self._parts().engine)
