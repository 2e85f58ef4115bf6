"""The experts that there are just now, and which of them may be asked."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Literal

from symmoe.config import ExpertConfig, Pool
from symmoe.errors import ConfigError
from symmoe.limits import EXPERTS
from symmoe.types import ExpertProfile

from ..events import TurnedAway
from .decision import Decision, Newcomer, State
from .joining import check_admissible

_LOG = logging.getLogger(__name__)
_UNKNOWN = TurnedAway(503, "store_unavailable", "which experts may be asked cannot be told just now", 1.0)
_AFTER = 30.0
_SAYING: Mapping[State, str] = {
    "draining": "is being drained and takes nothing new",
    "quarantined": "is quarantined",
    "removed": "was removed",
}
Known = Literal["pool", "newcomer"]


class Roster:
    """A pool and what was decided about its experts since. Everything is done in one thread: the event loop's.

    `known` is False until it was read what was decided before: nobody may be asked until then. `version` changes with
    every change of who is there. `clock` gives seconds since 1970. Newcomers' files lie in the folder of the pool file,
    or in `folder`.
    """

    def __init__(
        self, pool: Pool, known: bool = True, clock: Callable[[], float] = time.time, folder: str | None = None
    ) -> None:
        self._base, self.known, self._clock, self._folder = pool, known, clock, folder
        self._decisions: dict[str, Decision] = {}
        self._rows: dict[str, str] = {}
        self._newcomers: dict[str, Newcomer] = {}
        self._pool = pool
        self._listeners: list[Callable[[], None]] = []
        self.version = 0
        self.fingerprint = ""

    @property
    def pool(self) -> Pool:
        """The pool as it is now: with who came, without who was removed."""
        return self._pool

    @property
    def profiles(self) -> Mapping[str, ExpertProfile]:
        """The records of those who came, where they have one."""
        return {name: each.profile for name, each in self._newcomers.items() if each.profile is not None}

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """What was decided, by expert; of most there is nothing."""
        return self._decisions

    @property
    def without(self) -> tuple[str, ...]:
        """Whom no question may be routed to, sorted: who may not be asked, and who has no record."""
        return tuple(sorted(name for name in self._decisions if not self._routable(name)))

    def decision(self, name: str) -> Decision:
        """What was decided about an expert."""
        return self._decisions.get(name, Decision())

    def state(self, name: str) -> State:
        """Of an expert of the pool or a newcomer; `removed` for everybody else."""
        if name not in self._decisions:
            return "active" if name in self._pool.names else "removed"
        return self._decisions[name].at(self._clock())

    def has(self, name: str) -> Known | None:
        """Whether an expert is the pool file's, removed or not, or a newcomer."""
        if name in self._base.names:
            return "pool"
        return "newcomer" if name in self._newcomers else None

    def newcomer(self, name: str) -> ExpertConfig | None:
        """The expert of that name, if the pool file does not name it."""
        found = self._newcomers.get(name)
        return None if found is None else found.config

    def refusal(self, name: str) -> TurnedAway | None:
        """Why an expert may not be asked; None where it may."""
        if not self.known:
            return _UNKNOWN
        state = self.state(name)
        if state == "active":
            return None
        return TurnedAway(503, "expert_unavailable", f"expert {name!r} {_SAYING[state]}", _AFTER)

    def on_trial(self, name: str) -> bool:
        """Whether the next failure of an expert decides."""
        return self.decision(name).on_trial(self._clock())

    def dispensable(self, name: str) -> bool:
        """Whether the service may quarantine an active expert by itself: at least half of all must stay."""
        active = [each for each in self._pool.names if self.state(each) == "active"]
        return name in active and 2 * (len(active) - 1) >= len(self._pool.names) and len(active) > 1

    def tell(self, listener: Callable[[], None]) -> None:
        """Call it after every change."""
        self._listeners.append(listener)

    def apply(self, decisions: Mapping[str, Decision]) -> None:
        """What was decided is this, all of it. A newcomer that the pool file names by now is the pool file's."""
        self.known = True
        rows = {name: decision.row() for name, decision in sorted(decisions.items())}
        if rows == self._rows:
            return
        self._rows = rows
        self._newcomers = self._admitted(decisions)
        there = {*self._base.names, *self._newcomers}
        self._decisions = {name: decision for name, decision in decisions.items() if name in there}
        self._pool = self._changed_pool()
        came = "".join(row for name, row in rows.items() if name in self._newcomers)
        self.fingerprint = hashlib.sha256(came.encode()).hexdigest() if came else ""
        self.version += 1
        for listener in self._listeners:
            listener()

    def _admitted(self, decisions: Mapping[str, Decision]) -> dict[str, Newcomer]:
        """Who came; the store is not believed more than who sends an expert. Better one expert less than no service."""
        found: dict[str, Newcomer] = {}
        for name, decision in sorted(decisions.items()):
            if name in self._base.names or decision.expert is None or len(self._base.experts) + len(found) >= EXPERTS:
                continue
            try:
                newcomer = decision.newcomer(name)
                check_admissible(self._base, newcomer.config, self._folder)
            except ConfigError as error:
                _LOG.warning("an expert that the store names is passed over: %.300s", error)
                continue
            found[name] = newcomer
        return found

    def _changed_pool(self) -> Pool:
        kept = [each for each in self._base.experts if self.decision(each.name).state != "removed"]
        came = [self._newcomers[name].config for name in sorted(self._newcomers)]
        return self._base.model_copy(update={"experts": (*kept, *came)})

    def _routable(self, name: str) -> bool:
        newcomer = self._newcomers.get(name)
        return self.state(name) == "active" and (newcomer is None or newcomer.profile is not None)
