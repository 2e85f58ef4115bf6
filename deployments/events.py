"""What travels between the orchestrator and the expert replicas: frozen values, made to be pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from symmoe.config import ExpertConfig
from symmoe.engines.readers import Parted
from symmoe.errors import SymmoeError
from symmoe.tools import CallPart
from symmoe.types import Generation, Lane, Prompt, Query, TokenLogprob


@dataclass(frozen=True, slots=True)
class Asked:
    """One generation that an expert is asked for. It must begin within `patience` seconds of its arrival.

    `key` says whose request it is, for fair shares. With `stream` its text comes piece by piece. `newcomer` is the
    expert itself where the pool file does not name it: a replica need not have heard of it before. One asked in the
    `background` waits for all others, and may be begun anew for them: it cannot `stream`. `prompt` is there once the
    replica has made it. Where others may be asked in the expert's place, `elsewhere`, it does not wait for a lost
    replica to be replaced.
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
    """The generation began after `waited` seconds in the queue, of which `load` seconds went into its own expert.

    `lane` says how the expert was made ready, `first` that it was made ready for this request and those beside it.
    `prompt_tokens` are those of its prompt, 0 where that is not known before the end.
    """

    waited: float
    load: float
    lane: Lane
    first: bool
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was added, and its tokens' log-probabilities where they were asked for, or more of a `call`, or of the
    `reasoning` that is no part of the text.
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
    """The generation will not come. `retry_after` says in how many seconds to ask again, `again` that now may help.

    A `bystander` was lost with an engine that something else is likely to have ended: it had gone through a step.
    `spent` are the tokens that were made to find out that it cannot be answered.
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


class TurnedAwayError(Exception):
    """A request that was turned away for good."""

    def __init__(self, why: TurnedAway) -> None:
        super().__init__(why.message)
        self.why = why


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine is at: the expert in it, the one being made ready, how many run, and how many wait for each.

    Models whose engines sleep beside it are named in `asleep`; `memory` are the resident bytes of its replica's
    processes, pages that they share counted once for each, None where nobody looked.
    """

    expert: str | None
    loading: str | None
    running: int
    waiting: Mapping[str, int]
    asleep: tuple[str, ...] = ()
    memory: int | None = None


REASONS = ("stop", "length", "content_filter")
"""Why a generation may end that is an answer, as OpenAI names it."""


def piece(text: str, logprobs: tuple[TokenLogprob, ...], parted: Parted | None) -> Piece | None:
    """What text adds to an answer whose thoughts are `parted` from its words, or not; None for nothing."""
    thought, said = ("", text) if parted is None else parted.feed(text)
    return Piece(said, logprobs, reasoning=thought) if thought or said or logprobs else None


def finished(generation: Generation, parted: Parted | None) -> tuple[Generation, Piece | None]:
    """A generation as it is read, and what was not told of it yet."""
    if parted is None:
        return generation, None
    read, thought, said = parted.end(generation)
    return read, Piece(said, reasoning=thought) if thought or said else None


def unready(expert: str, error: SymmoeError) -> TurnedAway:
    """Why an expert cannot be made ready."""
    hint = f" ({error.hint})" if error.hint else ""
    return TurnedAway(503, "expert_unavailable", f"expert {expert!r} cannot be made ready: {error}{hint}")


def ended(generation: Generation, held: bool) -> Finished | TurnedAway:
    """How a generation ended: for any reason but those of an answer, it failed. `held` says that a schema held it."""
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
