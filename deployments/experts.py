"""Asks expert replicas, wherever they run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from .events import Asked, Begun, End, EngineState, Event, Piece, Tell, TurnedAway
from .expert import ExpertReplica

_SOON = 2.0
_AWAY = 5.0
_QUIET = 5.0
AWAY = TurnedAway(503, "waited_too_long", "the expert's replica was lost, and no other is there yet", 5.0)
LOST = TurnedAway(503, "expert_lost", "the expert's replica was lost while it answered", 1.0, again=True)
ENDLESS = TurnedAway(503, "expert_lost", "the expert's replica broke off without an end", 1.0)


class Experts(Protocol):
    """The expert replicas of a service."""

    async def ask(self, asked: Asked, tell: Tell) -> End:
        """Run one generation and return how it ended. Cancelling this call cancels the generation.

        `tell` is called with its beginning and, if it is streamed, with its pieces as they come.
        """
        ...

    async def warm(self) -> bool:
        """Whether a replica can answer without first starting its engine."""
        ...

    async def engines(self) -> list[EngineState]:
        """The state of every engine that answers within two seconds."""
        ...


def _told(events: Iterable[Event], tell: Tell) -> End | None:
    """The end among events, None where there is none yet; those before it are told."""
    for event in events:
        if not isinstance(event, Begun | Piece):
            return event
        tell(event)
    return None


async def _followed(lists: AsyncIterable[Sequence[Event]], tell: Tell) -> End:
    """The end of what a replica streams, whose events before it are told."""
    async for events in lists:
        if (end := _told(events, tell)) is not None:
            return end
    return ENDLESS


class LocalExperts:
    """One replica in this process."""

    def __init__(self, replica: ExpertReplica) -> None:
        self._replica = replica

    async def ask(self, asked: Asked, tell: Tell) -> End:
        """See `Experts.ask`."""
        async with aclosing(self._replica.stream(asked)) as lists:
            return await _followed(lists, tell)

    async def warm(self) -> bool:
        """Whether the replica is warm."""
        return await self._replica.warm()

    async def engines(self) -> list[EngineState]:
        """The state of the replica's engine."""
        return [await self._replica.state()]


class RayExperts:
    """Replicas of a Ray Serve deployment; `handle` is its `DeploymentHandle`.

    A request waits up to its patience for a replica to take it, and as long again in the replica's queue. With `rest`,
    replicas are ended while nobody asks. With `apart`, they run one dedicated expert: after one is lost, a request that
    may go to another expert waits at most five seconds, and gets `AWAY` until a replica answers again.
    """

    def __init__(
        self, handle: Any, rest: bool = False, apart: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._handle, self._rest, self._apart, self._clock = handle, rest, apart, clock
        self._warm = False
        self._back: asyncio.Task[None] | None = None
        self._lost_at = 0.0
        self._open, self._last = 0, -_QUIET

    async def ask(self, asked: Asked, tell: Tell) -> End:
        """See `Experts.ask`; `LOST` where the replica died meanwhile."""
        import ray
        from ray.serve.exceptions import RayServeException

        if asked.elsewhere and not await self._there():
            return AWAY
        brief = asked.elsewhere and self._apart and not self._rest
        patience = min(asked.patience, _AWAY) if brief else asked.patience
        response: Any = None
        done = False
        self._open += 1
        try:
            if asked.stream:
                response = self._handle.options(stream=True).stream.remote(asked)
                await asyncio.wait_for(response._to_object_ref_gen(), patience)
                end = await _followed(response, tell)
            else:
                response = self._handle.complete.remote(asked)
                await asyncio.wait_for(response._to_object_ref(), patience)
                end = _told(await response, tell) or ENDLESS
            done = True
            return end
        except (ray.exceptions.RayError, RayServeException):
            done = True
            self._note_lost()
            return LOST
        except TimeoutError:
            if brief:
                self._note_lost(patience)
                return AWAY
            return TurnedAway(503, "waited_too_long", f"no engine was there within {patience:.0f} s", 5.0)
        finally:
            self._open, self._last = self._open - 1, self._clock()
            if response is not None and not done:
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
        """Whether a replica was ever warm. Then none is asked again, as asking would keep idle replicas alive."""
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
        """The state of every replica's engine; [] for replicas that `rest` and had nothing to do for five seconds."""
        import ray
        from ray.serve.exceptions import RayServeException

        if self._rest and not self._open and self._clock() - self._last >= _QUIET:
            return []
        try:
            results = await self._handle.broadcast("state").results_async(timeout_s=_SOON, return_exceptions=True)
        except (TimeoutError, ray.exceptions.RayError, RayServeException):
            return []
        return [state for state in results if isinstance(state, EngineState)]
