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
_QUIET = 5.0
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
    Those that `rest` are ended when nobody asks.
    """

    def __init__(self, handle: Any, rest: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._handle, self._rest, self._clock = handle, rest, clock
        self._warm = False
        self._open, self._last = 0, -_QUIET

    async def ask(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """What becomes of a request; a replica that dies meanwhile ends it with `LOST`."""
        import ray
        from ray.serve.exceptions import RayServeException

        response: Any = None
        over = False
        self._open += 1
        try:
            if asked.stream:
                response = self._handle.options(stream=True).stream.remote(asked)
                await asyncio.wait_for(response._to_object_ref_gen(), asked.patience)
                async for events in response:
                    for event in events:
                        over = isinstance(event, ENDS)
                        yield event
            else:
                response = self._handle.complete.remote(asked)
                await asyncio.wait_for(response._to_object_ref(), asked.patience)
                events = await response
                over = True
                for event in events:
                    yield event
        except (ray.exceptions.RayError, RayServeException):
            over = True
            yield LOST
        except TimeoutError:
            yield TurnedAway(503, "waited_too_long", f"no engine was there within {asked.patience:.0f} s", 5.0)
        finally:
            self._open, self._last = self._open - 1, self._clock()
            if response is not None and not over:
                response.cancel()

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
