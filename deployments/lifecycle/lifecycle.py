"""The life cycle of a service's experts: what operators do to them, and what the service does by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from symmoe.config import Pool

from ..access.breaker import Stored
from ..experts import Experts
from ..settings import Settings
from .admission import AdmittedExperts
from .decision import Decision, State
from .failures import Failures
from .roster import Roster
from .roster_sync import Keeper


class Lifecycle:
    """Experts under a roster. `stored` remembers what is decided; without it that lasts as long as the process."""

    def __init__(
        self,
        pool: Pool,
        experts: Experts,
        settings: Settings,
        stored: Stored | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.roster = Roster(pool, known=stored is None, clock=clock, folder=settings.weights_folder)
        self.experts = AdmittedExperts(experts, self.roster, self._failed, self._answered)
        self.failures = Failures(settings.quarantine_after)
        self.quarantined: Callable[[str], None] = lambda expert: None
        self._seconds, self._clock = settings.quarantine_seconds, clock
        self._keeper = Keeper(self.roster, pool.name, stored)
        self._stored = stored is not None
        self._deciding: dict[str, asyncio.Task[None]] = {}

    @property
    def remembers(self) -> bool:
        """Whether what is decided is in a store."""
        return self._stored

    def keeping(self) -> AbstractAsyncContextManager[None]:
        """Keep the roster what the store says, as long as the block lasts."""
        return self._keeper.keeping()

    async def put(self, name: str, state: State, why: str = "") -> None:
        """Bring an expert of the roster into a state. Raises `StoreError`."""
        decision = self.roster.decision(name)
        newcomer = decision.expert is not None
        forgotten = (state == "removed" and newcomer) or (state == "active" and not newcomer)
        await self._keeper.decide(name, None if forgotten else decision.changed(state, why, self._clock()))

    async def add(self, name: str, decision: Decision, why: str = "") -> None:
        """Add a newcomer. Raises `StoreError`."""
        await self._keeper.decide(name, decision.changed("active", why, self._clock()))

    def _failed(self, expert: str, code: str) -> None:
        enough = self.failures.failed(expert, self.roster.on_trial(expert))
        if enough and self.roster.dispensable(expert) and expert not in self._deciding:
            why = f"failed {max(1, self.failures.count(expert))} times in a row, last with {code}"
            now = self._clock()
            self.failures.answered(expert)
            self.quarantined(expert)
            decision = self.roster.decision(expert).changed("quarantined", why, now, now + self._seconds)
            self._soon(expert, decision)

    def _answered(self, expert: str) -> None:
        self.failures.answered(expert)
        if self.roster.on_trial(expert) and expert not in self._deciding:
            self._soon(expert, self.roster.decision(expert).changed("active", "", self._clock()))

    def _soon(self, expert: str, decision: Decision) -> None:
        """In a task of its own: who notices it is a request, and may be cut off by it."""
        self._deciding[expert] = asyncio.create_task(self._keeper.decide_now(expert, decision))
        self._deciding[expert].add_done_callback(lambda _: self._deciding.pop(expert, None))
