"""The present experts and which of them may be asked: the pool, and the decisions made about it since.

A decision is kept in the store as a row of JSON. A newcomer joins if it is admissible.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from symmoe.build import check_expert
from symmoe.config import BUCKET, HUB_ADAPTER, ExpertConfig, Pool
from symmoe.errors import ConfigError, PoolError
from symmoe.limits import EXPERTS, STANDING_ROW_BYTES
from symmoe.loading.sources import is_local_path
from symmoe.routing.profile_files import FORMAT, parse_profiles
from symmoe.types import ExpertProfile

from ..events import TurnedAway

State = Literal["active", "draining", "quarantined", "removed"]
STATES: tuple[State, ...] = ("active", "draining", "quarantined", "removed")


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An expert that the pool file does not name. Without a `profile` it is only asked by name."""

    config: ExpertConfig
    profile: ExpertProfile | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. Times are seconds since 1970; one with `until` is the service's own and expires by itself.

    `expert` and `record` are a newcomer's, as in a pool file and a file of profiles.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    state: State = "active"
    why: str = ""
    since: float = 0.0
    until: float | None = None
    expert: dict[str, Any] | None = None
    record: dict[str, Any] | None = None

    def at(self, now: float) -> State:
        """The state at a given time."""
        return "active" if self.until is not None and now >= self.until else self.state

    def on_trial(self, now: float) -> bool:
        """Whether a quarantine by the service is over and the expert has not answered or failed since."""
        return self.until is not None and now >= self.until

    def changed(self, state: State, why: str, now: float, until: float | None = None) -> Decision:
        """Another decision about the same expert."""
        return replace(self, state=state, why=why, since=now, until=until)

    def newcomer(self, name: str) -> Newcomer:
        """The newcomer of this decision. Raises `PoolError` if it is invalid."""
        try:
            config = ExpertConfig.model_validate({**(self.expert or {}), "name": name})
        except ValidationError as error:
            raise PoolError(f"expert {name!r}: {error.errors()[0]['msg']}") from error
        return Newcomer(config, None if self.record is None else profile_of(name, self.record))

    def row(self) -> str:
        """The decision as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, row: bytes) -> Decision | None:
        """Read what `row` wrote; None for anything else, such as the format of a later version."""
        if len(row) > STANDING_ROW_BYTES:
            return None
        try:
            return _ROW.validate_json(row)
        except ValidationError:
            return None


_ROW = TypeAdapter(Decision)


def profile_of(name: str, record: dict[str, Any]) -> ExpertProfile:
    """An expert's record in a file of profiles. Raises `PoolError`."""
    return parse_profiles({"format": FORMAT, "experts": {name: record}}, f"of {name}").experts[name]


_LONGEST = 1024


def joining(pool: Pool, config: ExpertConfig, record: dict[str, Any] | None, folder: str | None) -> Decision:
    """The decision of a newcomer, its files verified. Blocks, as they may be large.

    Raises `ConfigError` and `CheckpointError`.
    """
    check_admissible(pool, config, folder)
    try:
        check_expert(pool, config, set())
    except OSError as error:
        raise ConfigError(f"its files cannot be read: {error.strerror}") from error
    if record is not None:
        profile_of(config.name, record)
    return Decision(expert=config.model_dump(mode="json", exclude_defaults=True), record=record)


def check_admissible(pool: Pool, config: ExpertConfig, folder: str | None) -> None:
    """Check a newcomer's description: when it is sent, and whenever the store names it again.

    Files must be in the folder of the pool file, or in `folder`. URLs and checkpoints with code are refused: only the
    author of the pool file may have them. Raises `ConfigError`.
    """
    if config.remote is not None or config.dedicated is not None or config.trust_remote_code:
        what = next((name for name in ("remote", "dedicated") if getattr(config, name)), "trust_remote_code")
        raise ConfigError(f"{what}: this can be set in the pool file only", hint=f"leave {what} out")
    if all(expert.remote is not None or expert.dedicated is not None for expert in pool.experts):
        raise ConfigError("all experts of this service are remote or dedicated: it has no engine for another")
    if len(pool.experts) >= EXPERTS:
        raise ConfigError(f"there are {EXPERTS} experts, which is as many as a pool may have", hint="remove one first")
    for name, source in (("model", config.model), ("adapter", config.adapter)):
        if source is not None and source.startswith(BUCKET):
            raise ConfigError(f"{name}: a bucket can be named in the pool file only", hint="copy the files here")
        if source is not None and not source.startswith(HUB_ADAPTER) and (name == "adapter" or is_local_path(source)):
            _confine(name, source, pool, folder)


def _confine(name: str, source: str, pool: Pool, folder: str | None) -> None:
    roots = [pool.root.resolve(), *([] if folder is None else [Path(folder).resolve()])]
    try:
        path = pool.path(source).resolve()
    except (OSError, RuntimeError, ValueError):  # no such user, a loop of links, a null byte
        path = None
    if path is None or len(source) > _LONGEST or not any(path.is_relative_to(root) for root in roots):
        message = f"{name}: only what lies in the folder of the pool file, or in weights_folder, can be added"
        raise ConfigError(message, hint="copy the files there")


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
    """A pool and the decisions about its experts. Used in one thread, that of the event loop.

    `known` is False until earlier decisions were read: nobody may be asked before. `version` changes with every change
    of the experts. `clock` gives seconds since 1970. Newcomers' files are in the folder of the pool file, or in
    `folder`.
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
        """The pool as it is now: with newcomers, without removed experts."""
        return self._pool

    @property
    def profiles(self) -> Mapping[str, ExpertProfile]:
        """The records of newcomers that have one."""
        return {name: newcomer.profile for name, newcomer in self._newcomers.items() if newcomer.profile is not None}

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """The decisions by expert; most experts have none."""
        return self._decisions

    @property
    def without(self) -> tuple[str, ...]:
        """The experts, sorted, to which no question may be routed: not to be asked, or without a record."""
        return tuple(sorted(name for name in self._decisions if not self._routable(name)))

    def decision(self, name: str) -> Decision:
        """The decision about an expert."""
        return self._decisions.get(name, Decision())

    def state(self, name: str) -> State:
        """The state of an expert of the pool or a newcomer; `removed` for any other name."""
        if name not in self._decisions:
            return "active" if name in self._pool.names else "removed"
        return self._decisions[name].at(self._clock())

    def has(self, name: str) -> Known | None:
        """Whether an expert is in the pool file, removed or not, or a newcomer."""
        if name in self._base.names:
            return "pool"
        return "newcomer" if name in self._newcomers else None

    def newcomer(self, name: str) -> ExpertConfig | None:
        """The newcomer of that name, or None."""
        newcomer = self._newcomers.get(name)
        return None if newcomer is None else newcomer.config

    def refusal(self, name: str) -> TurnedAway | None:
        """Why an expert may not be asked; None if it may."""
        if not self.known:
            return _UNKNOWN
        state = self.state(name)
        if state == "active":
            return None
        return TurnedAway(503, "expert_unavailable", f"expert {name!r} {_SAYING[state]}", _AFTER)

    def on_trial(self, name: str) -> bool:
        """Whether an expert's next failure quarantines it again."""
        return self.decision(name).on_trial(self._clock())

    def dispensable(self, name: str) -> bool:
        """Whether the service may quarantine an active expert by itself: at least half of all must stay."""
        active = [each for each in self._pool.names if self.state(each) == "active"]
        return name in active and 2 * (len(active) - 1) >= len(self._pool.names) and len(active) > 1

    def tell(self, listener: Callable[[], None]) -> None:
        """Call a function after every change."""
        self._listeners.append(listener)

    def apply(self, decisions: Mapping[str, Decision]) -> None:
        """Replace all decisions. A newcomer that the pool file now names is the pool file's."""
        self.known = True
        rows = {name: decision.row() for name, decision in sorted(decisions.items())}
        if rows == self._rows:
            return
        self._rows = rows
        self._newcomers = self._admitted(decisions)
        names = {*self._base.names, *self._newcomers}
        self._decisions = {name: decision for name, decision in decisions.items() if name in names}
        self._pool = self._changed_pool()
        newcomer_rows = "".join(row for name, row in rows.items() if name in self._newcomers)
        self.fingerprint = hashlib.sha256(newcomer_rows.encode()).hexdigest() if newcomer_rows else ""
        self.version += 1
        for listener in self._listeners:
            listener()

    def _admitted(self, decisions: Mapping[str, Decision]) -> dict[str, Newcomer]:
        """Who came; the store is not believed more than who sends an expert. Better one expert less than no service."""
        admitted: dict[str, Newcomer] = {}
        for name, decision in sorted(decisions.items()):
            if (
                name in self._base.names
                or decision.expert is None
                or len(self._base.experts) + len(admitted) >= EXPERTS
            ):
                continue
            try:
                newcomer = decision.newcomer(name)
                check_admissible(self._base, newcomer.config, self._folder)
            except ConfigError as error:
                _LOG.warning("an expert that the store names is passed over: %.300s", error)
                continue
            admitted[name] = newcomer
        return admitted

    def _changed_pool(self) -> Pool:
        remaining = [expert for expert in self._base.experts if self.decision(expert.name).state != "removed"]
        added = [self._newcomers[name].config for name in sorted(self._newcomers)]
        return self._base.model_copy(update={"experts": (*remaining, *added)})

    def _routable(self, name: str) -> bool:
        newcomer = self._newcomers.get(name)
        return self.state(name) == "active" and (newcomer is None or newcomer.profile is not None)
