"""What travels between the orchestrator and the expert replicas: frozen values, made to be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from symmoe.config import ExpertConfig
from symmoe.types import Generation, Lane, Query


@dataclass(frozen=True, slots=True)
class Asked:
    """One generation that an expert is asked for. It must begin within `patience` seconds of its arrival.

    `key` says whose request it is, for fair shares. With `stream` its text comes piece by piece. `newcomer` is the
    expert itself where the pool file does not name it: a replica need not have heard of it before. One asked in the
    `background` waits for all others.
    """

    id: str
    expert: str
    query: Query
    key: str
    patience: float
    stream: bool = False
    newcomer: ExpertConfig | None = None
    background: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """The generation began after `waited` seconds in the queue, of which `load` seconds went into its own expert.

    `lane` says how the expert was made ready, `first` that it was made ready for this request and those beside it.
    """

    waited: float
    load: float
    lane: Lane
    first: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was added."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation is complete."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """The generation will not come. `retry_after` says in how many seconds to ask again, `again` that now may help."""

    status: int
    code: str
    message: str
    retry_after: float | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine is at: the expert in it, the one being made ready, how many run, and how many wait for each."""

    expert: str | None
    loading: str | None
    running: int
    waiting: Mapping[str, int]


Event = Begun | Piece | Finished | TurnedAway
ENDS = (Finished, TurnedAway)
