"""An expert replica: one engine, its thread, and the requests waiting for it."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

from symmoe.config import Pool
from symmoe.planning.turns import Turns

from .engine_loop import EngineLoop
from .events import Asked, End, EngineState, Event, Gathered, TurnedAwayError
from .prompts import prompts_of
from .settings import Settings
from .worker import Build

MakeTurns = Callable[[int, int, float, float], Turns]
"""Of the slots, the most that wait, the patience and the amortisation."""
_LOOK = 0.05


def resident() -> int:
    """Resident bytes of this process and all its descendants."""
    import psutil

    root, total = psutil.Process(), 0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += int(process.memory_info().rss)
    return total


def replica_name() -> str:
    """This replica's name: its machine, which in Kubernetes is the pod, and its process."""
    return f"{platform.node()}-{os.getpid()}"


class ExpertReplica:
    """Serves every expert of a pool with one engine, one at a time. Made of picklable arguments, as `Worker` is.

    `first` chooses the expert to make ready at the start, None for none; it may block.
    """

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        build: Build,
        make_turns: MakeTurns = Turns,
        first: Callable[[Pool], str | None] = lambda pool: pool.names[0],
    ) -> None:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        turns = make_turns(pool.engine.max_num_seqs, settings.most_waiting, settings.patience, settings.amortise)
        self.prompts = prompts_of(pool)
        self._events: dict[str, Gathered] = {}
        self._asyncio: asyncio.AbstractEventLoop | None = None
        self.loop = EngineLoop(lambda: build(pool), turns, self._told, settings.stall, settings.slowest_load)
        self.loop.start(lambda: first(pool))

    async def complete(self, asked: Asked) -> list[Event]:
        """All events of a generation, once it has ended."""
        async with aclosing(self.stream(asked)) as lists:
            return [event async for events in lists for event in events]

    async def stream(self, asked: Asked) -> AsyncGenerator[list[Event], None]:
        """The events of a generation as they happen, those close together as one list.

        Closing the iterator cancels the generation.
        """
        self._asyncio = asyncio.get_running_loop()
        self._events[asked.id] = gathered = Gathered()
        done = False
        try:
            if self.prompts is not None:
                asked = await self.prompts.ready(asked)
            self.loop.submit(asked)
            while not done:
                events = await gathered.take()
                done = isinstance(events[-1], End)
                yield events
        except TurnedAwayError as error:
            done = True
            yield [error.why]
        finally:
            del self._events[asked.id]
            if not done:
                self.loop.cancel(asked.id)

    async def warm(self) -> bool:
        """Whether the first expert has been made ready; also true if none is made ready before a request."""
        return self.loop.warm.is_set()

    async def begun(self) -> None:
        """Wait until it is `warm`. Raises `RuntimeError` if the engine cannot start, or hangs."""
        while not self.loop.warm.is_set():
            self.check_health()
            await asyncio.sleep(_LOOK)

    async def state(self) -> EngineState:
        """The engine's state, at most a fraction of a second old, and the memory in use now."""
        return replace(self.loop.state, memory=await asyncio.to_thread(resident), name=replica_name())

    def check_health(self) -> None:
        """Raise `RuntimeError` if the engine's thread has died or hangs."""
        if not self.loop.healthy:
            raise RuntimeError(f"the engine's thread has died or hangs{self.loop.trouble and f': {self.loop.trouble}'}")

    def stop(self) -> None:
        """End the engine."""
        if self.prompts is not None:
            self.prompts.close()
        self.loop.stop()

    def __del__(self) -> None:
        self.stop()

    def _told(self, events: Sequence[tuple[str, Event]]) -> None:
        """Called in the engine's thread."""
        if self._asyncio is not None and not self._asyncio.is_closed():
            self._asyncio.call_soon_threadsafe(self._pass_on, events)

    def _pass_on(self, events: Sequence[tuple[str, Event]]) -> None:
        for ident, event in events:
            if ident in self._events:
                self._events[ident].put(event)
