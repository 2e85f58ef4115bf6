"""First come, first served: what a server does that loads the model of the request at hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from symmoe.planning.turns import Turns, Waiting

Policy = Literal["turns", "first_come", "first_come_joined"]


class FirstCome(Turns):
    """Turns whose `policy` can be changed while nobody waits or runs; for comparison only.

    turns               as they are
    first_come          requests begin in the order in which they came: consecutive ones of one expert run together,
                        one of another waits until they are finished, and everybody else waits behind it
    first_come_joined   the oldest request's expert is next, and all that wait for it then run with it
    """

    policy: Policy = "turns"

    def begin(self, now: float) -> list[Waiting]:
        """The requests that begin now."""
        if self.policy == "turns":
            return super().begin(now)
        begun = list(self._in_order(self._slots - len(self._running)))
        for each in begun:
            del self._waiting[each.id]
            self._running[each.id] = each
            self._note_begun(now)
        return begun

    def switch(self, now: float) -> str | None:
        """The oldest request's expert, once what is running is finished."""
        if self.policy == "turns":
            return super().switch(now)
        oldest = self._oldest()
        if self._running or oldest is None or oldest.expert == self._resident:
            return None
        return oldest.expert

    def _oldest(self) -> Waiting | None:
        return min(self._waiting.values(), key=lambda each: (each.arrived, each.id), default=None)

    def _in_order(self, room: int) -> Iterator[Waiting]:
        queue = sorted(self._waiting.values(), key=lambda each: (each.arrived, each.id))
        joined = self.policy == "first_come_joined"
        if not queue or queue[0].expert != self._resident:
            return
        for each in queue:
            if room == 0 or (each.expert != self._resident and not joined):
                return
            if each.expert == self._resident:
                room -= 1
                yield each
