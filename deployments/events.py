"""The messages between the orchestrator and the expert replicas: frozen values, made to be pickled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from symmoe.config import ExpertConfig
from symmoe.engines.readers import Parted
from symmoe.errors import SymmoeError
from symmoe.tools import CallPart
from symmoe.types import EngineStats, Generation, Lane, Prompt, Query, TokenLogprob


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to an expert for one generation. It must begin within `patience` seconds of its arrival.

    `key` is whose request it is, for fair shares. With `stream` its text comes piece by piece. `newcomer` is the expert
    itself if the pool file does not name it, since a replica may not know it yet. One in the `background` waits for all
    others, and may be restarted for them, so it cannot `stream`. `prompt` is set once the replica has made it. With
    `elsewhere` others may be asked in the expert's place, so it does not wait for a lost replica to be replaced.
    """

    id: str
    expert: str
    query: Query
    key: str
    patience: float
    stream: bool = False
    newcomer: ExpertConfig | None = None
    background: bool = False
    prompt: Prompt | None = None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """The generation began after `waited` seconds in the queue, `load` of them spent making its own expert ready.

    `lane` says how the expert was made ready, `first` that it was made ready for this request and those with it.
    `prompt_tokens` are those of its prompt, 0 if not known before the end.
    """

    waited: float
    load: float
    lane: Lane
    first: bool
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Added text with its tokens' log-probabilities where requested, or more of a `call`, or of the `reasoning`.

    Reasoning is no part of the text.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    call: CallPart | None = None
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation is complete."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """The generation will not come. `retry_after` is in seconds; `again` says that a retry now may help.

    A `bystander` was lost with an engine that something else probably ended: it had completed a step. `spent` are the
    tokens spent before it turned out that there is no answer.
    """

    status: int
    code: str
    message: str
    retry_after: float | None = None
    again: bool = False
    bystander: bool = False
    spent: int = 0


NOT_TAKEN = "request_not_taken"
"""The code of a refusal by an expert elsewhere that does not take a request which another may take."""


def overloaded(seconds: float) -> TurnedAway:
    """The refusal where too many requests wait, the next of which would begin in so many seconds."""
    return TurnedAway(429, "overloaded", "too many requests are waiting", min(60.0, max(1.0, seconds)))


class TurnedAwayError(Exception):
    """A request that was finally turned away."""

    def __init__(self, why: TurnedAway) -> None:
        super().__init__(why.message)
        self.why = why


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine's state: its expert, the one being made ready, how many requests run, and how many wait for each.

    `asleep` names models whose engines sleep beside it; `memory` are the resident bytes of its replica's processes,
    with shared pages counted once for each, None if not measured. `stats` are its counts since its replica began, by
    expert; `name` identifies the replica.
    """

    expert: str | None
    loading: str | None
    running: int
    waiting: Mapping[str, int]
    asleep: tuple[str, ...] = ()
    memory: int | None = None
    name: str = ""
    stats: Mapping[str, EngineStats] = field(default_factory=dict)


REASONS = ("stop", "length", "content_filter")
"""Why a generation may end that is an answer, as OpenAI names it."""


def piece(text: str, logprobs: tuple[TokenLogprob, ...], parted: Parted | None) -> Piece | None:
    """What text adds to an answer, with reasoning `parted` from it or not; None for nothing."""
    reasoning, answer = ("", text) if parted is None else parted.feed(text)
    return Piece(answer, logprobs, reasoning=reasoning) if reasoning or answer or logprobs else None


def finished(generation: Generation, parted: Parted | None) -> tuple[Generation, Piece | None]:
    """A generation as it is read, and the part of it not sent yet."""
    if parted is None:
        return generation, None
    parsed, reasoning, answer = parted.end(generation)
    return parsed, Piece(answer, reasoning=reasoning) if reasoning or answer else None


def unready(expert: str, error: SymmoeError) -> TurnedAway:
    """The refusal for an expert that cannot be made ready."""
    hint = f" ({error.hint})" if error.hint else ""
    return TurnedAway(503, "expert_unavailable", f"expert {expert!r} cannot be made ready: {error}{hint}")


def ended(generation: Generation, held: bool) -> Finished | TurnedAway:
    """How a generation ended: for a reason that no answer has, it failed. `held` says that it had a schema."""
    if generation.finish_reason in REASONS:
        return Finished(generation)
    spent = generation.prompt_tokens + generation.completion_tokens
    if held:
        message = "response_format: the engine could not follow the schema to an end"
        return TurnedAway(400, "invalid_schema", message, spent=spent)
    return TurnedAway(500, "generation_failed", f"the generation ended with {generation.finish_reason!r}", spent=spent)


End = Finished | TurnedAway
Event = Begun | Piece | End
Tell = Callable[[Begun | Piece], None]
"""Is called with what comes before a generation ends. Must not block."""


_GATHER = 0.02
"""Seconds within which the pieces of one text travel together."""


class Gathered:
    """The events of one generation between their producer and their sender.

    The first piece of text is available at once; later ones are collected for 20 ms and taken together.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._pieces = 0
        self.put = self._queue.put_nowait

    async def take(self) -> list[Event]:
        """Wait for the next events: one or more, in order. Only one task may take."""
        if self._pieces > 1:
            await asyncio.sleep(_GATHER)
        events = [await self._queue.get()]
        while not self._queue.empty():
            events.append(self._queue.get_nowait())
        self._pieces += self._pieces > 0 or not isinstance(events[-1], Begun)
        return events
