"""Asking expert replicas, wherever they run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from .events import ENDS, Asked, EngineState, Event, TurnedAway
from .expert import ExpertReplica

_SOON = 2.0
_AWAY = 5.0
_QUIET = 5.0
AWAY = TurnedAway(503, "waited_too_long", "the expert's replica was lost, and no other is there yet", 5.0)
LOST = TurnedAway(503, "expert_lost", "the expert's replica was lost while it answered", 1.0, again=True)


class Experts(Protocol):
    """The expert replicas of a service."""

    def ask(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """What becomes of a request, as it happens; the last event is an end. Closing the iterator cancels it."""
        ...

    async def warm(self) -> bool:
        """Whether a replica can answer without first starting its engine."""
        ...

    async def engines(self) -> list[EngineState]:
        """What every engine is at; of those that do not say so soon, nothing."""
        ...


class LocalExperts:
    """One replica in this process."""

    def __init__(self, replica: ExpertReplica) -> None:
        self._replica = replica

    async def ask(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """What becomes of a request."""
        async with aclosing(self._replica.stream(asked)) as gathered:
            async for events in gathered:
                for event in events:
                    yield event

    async def warm(self) -> bool:
        """Whether the replica is."""
        return await self._replica.warm()

    async def engines(self) -> list[EngineState]:
        """What the replica's engine is at."""
        return [await self._replica.state()]


class RayExperts:
    """Replicas of a Ray Serve deployment; `handle` is its `DeploymentHandle`.

    A request waits for as long as it has patience for a replica to take it, in whose queue its patience begins anew.
    Those that `rest` are ended when nobody asks. Where they run one expert that stands `apart`, and one is lost, a
    request that may go elsewhere waits for five seconds, and is told that it is `AWAY` until one answers again.
    """

    def __init__(
        self, handle: Any, rest: bool = False, apart: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._handle, self._rest, self._apart, self._clock = handle, rest, apart, clock
        self._warm = False
        self._back: asyncio.Task[None] | None = None
        self._lost_at = 0.0
        self._open, self._last = 0, -_QUIET

    async def ask(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """What becomes of a request; a replica that dies meanwhile ends it with `LOST`."""
        import ray
        from ray.serve.exceptions import RayServeException

        if asked.elsewhere and not await self._there():
            yield AWAY
            return
        brief = asked.elsewhere and self._apart and not self._rest
        patience = min(asked.patience, _AWAY) if brief else asked.patience
        response: Any = None
        over = False
        self._open += 1
        try:
            if asked.stream:
                response = self._handle.options(stream=True).stream.remote(asked)
                await asyncio.wait_for(response._to_object_ref_gen(), patience)
                async for events in response:
                    for event in events:
                        over = isinstance(event, ENDS)
                        yield event
            else:
                response = self._handle.complete.remote(asked)
                await asyncio.wait_for(response._to_object_ref(), patience)
                events = await response
                over = True
                for event in events:
                    yield event
        except (ray.exceptions.RayError, RayServeException):
            over = True
            self._note_lost()
            yield LOST
        except TimeoutError:
            if brief:
                self._note_lost(patience)
                yield AWAY
            else:
                yield TurnedAway(503, "waited_too_long", f"no engine was there within {patience:.0f} s", 5.0)
        finally:
            self._open, self._last = self._open - 1, self._clock()
            if response is not None and not over:
                response.cancel()

    def _note_lost(self, waited: float = 0.0) -> None:
        if self._apart and self._back is None:
            self._lost_at, self._back = self._clock() - waited, asyncio.create_task(self._answers_again())

    async def _answers_again(self) -> None:
        """Wait until a replica answers."""
        import ray
        from ray.serve.exceptions import RayServeException

        while True:
            try:
                await self._handle.warm.remote()
            except (ray.exceptions.RayError, RayServeException):
                await asyncio.sleep(_SOON)
            else:
                self._back = None
                return

    async def _there(self) -> bool:
        """Whether no replica was lost, or one answers again; soon after the loss that is waited for."""
        if self._back is not None:
            await asyncio.wait({self._back}, timeout=max(0.0, self._lost_at + _AWAY - self._clock()))
        return self._back is None

    async def warm(self) -> bool:
        """Whether a replica has been. Asked no more once it was: asking would keep idle replicas from being ended."""
        import ray
        from ray.serve.exceptions import RayServeException

        if not self._warm:
            try:
                async with asyncio.timeout(_SOON):
                    self._warm = bool(await self._handle.warm.remote())
            except (TimeoutError, ray.exceptions.RayError, RayServeException):
                return False
        return self._warm

    async def engines(self) -> list[EngineState]:
        """What the engines of all replicas are at. Those that rest are not asked for long: they would never end."""
        import ray
        from ray.serve.exceptions import RayServeException

        if self._rest and not self._open and self._clock() - self._last >= _QUIET:
            return []
        try:
            found = await self._handle.broadcast("state").results_async(timeout_s=_SOON, return_exceptions=True)
        except (TimeoutError, ray.exceptions.RayError, RayServeException):
            return []
        return [state for state in found if isinstance(state, EngineState)]
