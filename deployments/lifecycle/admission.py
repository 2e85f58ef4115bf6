"""The way to the experts: who may not be asked is not, what waits for it is given back at once, and what a lost replica
had not begun to answer is asked once more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..events import Asked, Begun, End, EngineState, Finished, Piece, Tell, TurnedAway
from ..experts import LOST, Experts
from .failures import FAILING
from .roster import Roster

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
    held = lost.code == LOST.code and asked.query.sampling.schema is not None
    return lost.again and not one.given and not held


class AdmittedExperts:
    """The experts of a roster. One that is drained finishes what it was given; one that is quarantined loses it.

    `failed` is told of an expert's failures by their code, `answered` of its answers.
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
        """How many requests each expert has: those that wait, and those that it answers."""
        return Counter(each.expert for each in self._open)

    async def ask(self, asked: Asked, tell: Tell) -> End:
        """How a generation ended. Lost before any of its text was given, it is asked for again `retries` times.

        It may be what ended the engine, and end the next. So one that was held to a schema is not asked again, and only
        one that is told to have been a bystander is asked once more than that.
        """
        one, suspected = _Open(asked.expert, tell), 0
        known = {expert.name: expert.retries for expert in self._roster.pool.experts}
        retries = known.get(asked.expert, 1)
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
        """What every engine is at."""
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
