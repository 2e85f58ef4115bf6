"""The life cycle of a service's experts: what operators do to them, and what the service does by itself.

Who may not be asked is not; what waits for it is given back at once, and what a lost replica had not begun to answer is
asked once more. An expert that has failed often enough is left alone for a while. Decisions are kept in the store, from
which each process reads those of others.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symmoe.config import Pool, state_dir
from symmoe.errors import StoreError

from ..access.breaker import Stored
from ..events import Asked, Begun, End, EngineState, Finished, Piece, Tell, TurnedAway
from ..experts import LOST, Experts
from ..repeating import repeating
from ..settings import Settings
from ..storage import command, settled
from .roster import Decision, Roster, State

if TYPE_CHECKING:
    from redis.asyncio import Redis


FAILING = ("expert_unavailable", "expert_lost")
"""What counts: it could not be made ready or did not answer, or the engine was lost while it answered."""


class Failures:
    """Counts each expert's failures in a row, which are enough after a given number; 0 for never.

    Failures within `apart` seconds of the one last counted are the same failure: one failed load, or one lost machine,
    fails many requests. One answer in between clears the count.
    """

    def __init__(self, after: int, apart: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._after, self._apart, self._clock = after, apart, clock
        self._counted: dict[str, tuple[int, float]] = {}

    def failed(self, expert: str, on_trial: bool = False) -> bool:
        """Note a failure. Returns whether that is enough; for an expert on trial one is."""
        now = self._clock()
        count, last = self._counted.get(expert, (0, now - self._apart))
        if now - last >= self._apart:
            count, last = count + 1, now
        self._counted[expert] = count, last
        return self._after > 0 and (on_trial or count >= self._after)

    def answered(self, expert: str) -> None:
        """Note an answer."""
        self._counted.pop(expert, None)

    def count(self, expert: str) -> int:
        """How many failures in a row."""
        return self._counted.get(expert, (0, 0.0))[0]


_TRIES = 3


@dataclass(slots=True, eq=False)
class _Open:
    """One generation on its way, of which `tell` is told; `limit` is the wait that it is in."""

    expert: str
    tell: Tell
    given: bool = False
    cut: bool = False
    limit: asyncio.Timeout | None = None

    def note(self, event: Begun | Piece) -> None:
        """It goes on."""
        self.given = self.given or isinstance(event, Piece)
        self.tell(event)


def _repeatable(asked: Asked, lost: TurnedAway, one: _Open) -> bool:
    """Whether a request that was lost may be asked anew: nothing was given yet, and no schema ended its engine."""
    schema_bound = lost.code == LOST.code and asked.query.sampling.schema is not None
    return lost.again and not one.given and not schema_bound


class AdmittedExperts:
    """The experts of a roster. A drained one finishes its requests; a quarantined one loses them.

    `failed` is called with an expert's failures by code, `answered` with its answers.
    """

    def __init__(
        self,
        experts: Experts,
        roster: Roster,
        failed: Callable[[str, str], None],
        answered: Callable[[str], None],
    ) -> None:
        self._experts, self._roster = experts, roster
        self._failed, self._answered = failed, answered
        self._open: set[_Open] = set()
        roster.tell(self._cut)

    @property
    def open(self) -> Counter[str]:
        """How many requests each expert has, waiting or running."""
        return Counter(each.expert for each in self._open)

    async def ask(self, asked: Asked, tell: Tell) -> End:
        """How a generation ended. If lost before any of its text was given, it is retried `retries` times.

        It may be what ended the engine, and end the next. So one held to a schema is not retried, and one reported as a
        bystander is retried once more.
        """
        one, suspected = _Open(asked.expert, tell), 0
        retries_by_expert = {expert.name: expert.retries for expert in self._roster.pool.experts}
        retries = retries_by_expert.get(asked.expert, 1)
        most = _TRIES - 1 + retries
        self._open.add(one)
        try:
            for attempt in range(most):
                refusal = self._roster.refusal(asked.expert)
                if refusal is not None:
                    return refusal
                ident, newcomer = f"{asked.id}{'-again' * attempt}", self._roster.newcomer(asked.expert)
                end = await self._attempt(replace(asked, id=ident, newcomer=newcomer), one)
                if isinstance(end, Finished):
                    return end
                suspected += not end.bystander
                if one.cut or suspected > retries or not _repeatable(asked, end, one):
                    break
            return end
        finally:
            self._open.discard(one)

    async def warm(self) -> bool:
        """Whether an expert can answer, and may."""
        return self._roster.known and await self._experts.warm()

    async def engines(self) -> list[EngineState]:
        """The state of every engine."""
        return await self._experts.engines()

    async def _attempt(self, asked: Asked, one: _Open) -> End:
        """How a generation ended; where its expert is quarantined meanwhile it is cut off, and refused."""
        try:
            async with asyncio.timeout(None) as one.limit:  # ends when it is rescheduled
                end = await self._experts.ask(asked, one.note)
        except TimeoutError:
            if not one.cut:
                raise
            message = "it was quarantined"
            return self._roster.refusal(asked.expert) or TurnedAway(503, "expert_unavailable", message, 1.0)
        finally:
            one.limit = None
        self._note(asked.expert, end)
        return end

    def _note(self, expert: str, end: End) -> None:
        if isinstance(end, Finished):
            self._answered(expert)
        elif end.code in FAILING:
            self._failed(expert, end.code)

    def _cut(self) -> None:
        for one in self._open:
            if not one.cut and self._roster.state(one.expert) == "quarantined":
                one.cut = True
                if one.limit is not None:
                    one.limit.reschedule(asyncio.get_running_loop().time())


_LOOK_SECONDS = 0.5


class Keeper:
    """Writes decisions to the store and reads those of other processes, every half second.

    Without a store (`stored` is None) decisions last as long as this process.
    """

    def __init__(self, roster: Roster, pool: str, stored: Stored | None) -> None:
        self._roster, self._stored, self._table = roster, stored, f"symmoe:experts:{pool}"
        self._unwritten: dict[str, Decision] = {}
        self._deciding = asyncio.Lock()

    def following_store(self) -> AbstractAsyncContextManager[None]:
        """Read other processes' decisions every half second during the block."""
        return nullcontext() if self._stored is None else repeating(self.look, _LOOK_SECONDS, at_once=True)

    async def decide(self, name: str, decision: Decision | None) -> None:
        """Decide about an expert, None to withdraw. It is in force when this returns. Raises `StoreError`."""
        async with self._deciding:
            await self._write({name: decision})
            self._unwritten.pop(name, None)
            await self._read_or_apply({name: decision})

    async def decide_now(self, name: str, decision: Decision) -> None:
        """The same without waiting for the store: in force here at once, and written as soon as possible."""
        self._unwritten[name] = decision
        self._roster.apply({**self._roster.decisions, name: decision})
        with suppress(StoreError):
            await self.look()

    async def look(self) -> None:
        """Write what is pending, and read everything. Does not start a store that never existed.

        Raises `StoreError`.
        """
        async with self._deciding:
            if self._unwritten:
                late = dict(self._unwritten)
                await self._write(late)
                self._unwritten = {name: each for name, each in self._unwritten.items() if late.get(name) is not each}
            elif not store_expected():
                self._roster.apply(self._roster.decisions)
                return
            await self._read_or_apply({})

    async def _read_or_apply(self, decided: Mapping[str, Decision | None]) -> None:
        decisions: dict[str, Decision | None] = {**await self._read(), **self._unwritten}
        if self._stored is None:
            decisions = {**self._roster.decisions, **decided}
        self._roster.apply({name: decision for name, decision in decisions.items() if decision is not None})

    async def _write(self, decided: Mapping[str, Decision | None]) -> None:
        if self._stored is None:
            return

        async def work(client: Redis) -> None:
            for name, decision in decided.items():
                if decision is None:
                    await client.hdel(self._table, name)
                else:
                    await client.hset(self._table, name, decision.row())
            await settled(client)

        await self._stored.do(work)

    async def _read(self) -> dict[str, Decision | None]:
        if self._stored is None:
            return {}
        rows: dict[bytes, bytes] = await self._stored.do(command("HGETALL", self._table))
        return {name.decode(errors="replace"): Decision.parse(row) for name, row in rows.items()}


def store_expected() -> bool:
    """Whether a store is named, or an embedded one was ever started."""
    return bool(os.environ.get("REDIS_URL")) or (state_dir() / "valkey.lock").exists()


class Lifecycle:
    """Experts under a roster. `stored` keeps decisions; without it they last as long as the process."""

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
        """Whether decisions are kept in a store."""
        return self._stored

    def following_store(self) -> AbstractAsyncContextManager[None]:
        """Keep the roster up to date with the store during the block."""
        return self._keeper.following_store()

    async def put(self, name: str, state: State, why: str = "") -> None:
        """Set the state of an expert of the roster. Raises `StoreError`."""
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
