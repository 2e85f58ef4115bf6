"""What was decided about one expert while the service ran, as it lies in the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from symmoe.config import ExpertConfig
from symmoe.errors import PoolError
from symmoe.limits import STANDING_ROW_BYTES
from symmoe.routing.profile_files import FORMAT, parse_profiles
from symmoe.types import ExpertProfile

State = Literal["active", "draining", "quarantined", "removed"]
STATES: tuple[State, ...] = ("active", "draining", "quarantined", "removed")


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An expert that the pool file does not name. Without a `profile` it is asked by its name only."""

    config: ExpertConfig
    profile: ExpertProfile | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. Times are seconds since 1970; one with an `until` was the service's own and ends by itself.

    `expert` and `record` are those of a newcomer, as a pool file and a file of profiles have them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    state: State = "active"
    why: str = ""
    since: float = 0.0
    until: float | None = None
    expert: dict[str, Any] | None = None
    record: dict[str, Any] | None = None

    def at(self, now: float) -> State:
        """The state at a time."""
        return "active" if self.until is not None and now >= self.until else self.state

    def on_trial(self, now: float) -> bool:
        """Whether a quarantine of the service's own is over and nothing is known of the expert since."""
        return self.until is not None and now >= self.until

    def changed(self, state: State, why: str, now: float, until: float | None = None) -> Decision:
        """Another decision about the same expert."""
        return replace(self, state=state, why=why, since=now, until=until)

    def newcomer(self, name: str) -> Newcomer:
        """The expert that came later. Raises `PoolError` for what is none."""
        try:
            config = ExpertConfig.model_validate({**(self.expert or {}), "name": name})
        except ValidationError as error:
            raise PoolError(f"expert {name!r}: {error.errors()[0]['msg']}") from error
        return Newcomer(config, None if self.record is None else profile_of(name, self.record))

    def row(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, row: bytes) -> Decision | None:
        """What `row` wrote; None for anything else, such as what a later version may have written."""
        if len(row) > STANDING_ROW_BYTES:
            return None
        try:
            return _ROW.validate_json(row)
        except ValidationError:
            return None


_ROW = TypeAdapter(Decision)


def profile_of(name: str, record: dict[str, Any]) -> ExpertProfile:
    """An expert's record out of a file of profiles. Raises `PoolError`."""
    return parse_profiles({"format": FORMAT, "experts": {name: record}}, f"of {name}").experts[name]
