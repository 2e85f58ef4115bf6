"""How far a job is, when it will be done, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from symmoe.batch.record import Cause
from symmoe.types import Lane


@dataclass(slots=True)
class Status:
    """The status of a job: `state` is running, finished or stopped. Rates are means over this run; times in seconds.

    `share` is the part of the job that is done, and `left` the time until all is at this rate; None if unknown.
    """

    state: str = "running"
    done: int = 0
    failed: int = 0
    lines_per_second: float = 0.0
    tokens_per_second: float = 0.0
    share: float | None = None
    left: float | None = None
    expert: str = ""
    lane: str = ""
    loads: int = 0
    window: str = ""
    seconds: float = 0.0
    at: float = 0.0


class Source(Protocol):
    """What is read, so far."""

    @property
    def count(self) -> int:
        """The lines that were read."""

    @property
    def share(self) -> float | None:
        """The part of all lines that these are."""


class Progress:
    """Estimates how much of an input is done. `begun_with` are the lines that an earlier run wrote.

    Of the lines in hand, which are not written yet, as much counts as experts have answered.
    """

    def __init__(self, source: Source, begun_with: int) -> None:
        self._source, self._begun_with = source, begun_with
        self._asked = self._heard = self._in_hand = 0
        self._passed = 0.0

    def takes(self, lines: int, passed: float = 0.0) -> None:
        """Note that so many lines are in hand now, of which a part may be answered."""
        self._in_hand, self._passed, self._asked, self._heard = lines, passed, 0, 0

    def writes(self, lines: int, known: int) -> None:
        """Note that so many lines of those in hand are written, of which an earlier run had answered some."""
        self._in_hand -= lines
        self._begun_with += known

    def asks(self, calls: int) -> None:
        """Note that experts are asked so much."""
        self._asked += calls

    def hears(self, candidates: int) -> None:
        """Note that experts answered so much."""
        self._heard += candidates

    def now(self, written: int, seconds: float) -> tuple[float | None, float | None]:
        """The part of the job that is done, and the seconds until it is, `written` lines after so many seconds."""
        share = self._source.share
        if not share:
            return None, None
        answered = max(self._passed, min(self._heard / self._asked, 1.0) if self._asked else 0.0)
        total = max(self._source.count / share, 1.0)
        done = min(written + answered * self._in_hand, total)
        fresh = done - self._begun_with
        return round(done / total, 4), round(seconds * (total - done) / fresh, 1) if fresh > 0 else None


class Loaded(NamedTuple):
    """How an expert was loaded: the lane, and the reason for it. A job has many loads, few that differ in these."""

    expert: str
    lane: Lane
    reason: str


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The outcome of a job: lines answered and failed, candidates reused from an earlier run, and the cost.

    `ran` says whether there was anything to do, `kept` how many lines an earlier run had done. `ignored` counts the
    lines that have a field without effect, by its name; `causes` are why lines failed, by code; `lost` are experts that
    failed, and why. `window` says what a window held, and why.
    """

    answered: int
    failed: int
    resumed: int = 0
    ran: bool = False
    kept: int = 0
    loads: tuple[Loaded, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    causes: Mapping[str, Cause] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    window: str = ""
