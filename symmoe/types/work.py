"""Work of experts: plans, loads, generations, and what they were measured to take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from symmoe.types.questions import Query, ToolCall
from symmoe.types.quick import quick
from symmoe.types.skills import Assignment

Lane = Literal["resident", "held", "adapter", "swap", "merged", "wake", "rebuild"]


@quick(frozen=True, slots=True)
class Call:
    """One generation: the query to answer, and every assignment that the result serves.

    Greedy generations of equal prompts are equal, so assignments that differ only in slot or in the query's id share
    one call.
    """

    expert: str
    query: Query
    serves: tuple[Assignment, ...]

    def __hash__(self) -> int:
        """A hash of what no two calls of a plan have in common, without that of the query."""
        return hash(self.serves)


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates in bytes per second, measured by machines that each read a part of a model and exchange the parts.

    `alone` is what storage gives one machine while no other reads, `storage` what it gives all of them together, `link`
    what each machine receives while all send. `overhead` is the time in seconds before the first byte, for connecting
    and measuring; `measured` is when, in seconds since 1970.
    """

    alone: float
    storage: float
    link: float
    overhead: float
    measured: float

    def gathered(self, nbytes: int, machines: int) -> float:
        """Seconds until each of `machines` has all `nbytes`, if each byte is read from storage once."""
        received = nbytes * (machines - 1) / machines
        return max(nbytes / machines / self.alone, nbytes / self.storage, received / self.link) + self.overhead


@dataclass(frozen=True, slots=True)
class Joint:
    """Steps of several workers that begin together, so that their machines read a model once between them.

    `number` identifies the group in a plan, `workers` is its size. A worker waits at most `patience` seconds for the
    others. `rates` are those measured earlier, if any.
    """

    number: int
    workers: int
    patience: float
    rates: Rates | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one expert on one worker: it is loaded once and then answers every call."""

    expert: str
    calls: tuple[Call, ...]
    worker: int = 0
    joint: Joint | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a batch; each worker runs its own in this order. An expert has at most one step on a worker."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A query's token ids as experts are given them, by the tokenizer of the checkpoint in the directory `model`."""

    model: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token as text, its natural log-probability, and those of the likeliest tokens in its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@quick(frozen=True, slots=True)
class Generation:
    """An engine's result for one call. `logprobs` are empty unless asked for; `stop` is the stop sequence that was met.

    `calls` are the tool calls in the text. `reasoning` is the model's thinking, which is not part of `text`. If this is
    the answer to a query, `expert` is the expert that wrote it.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    stop: str | None = None
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    reasoning_tokens: int = 0
    expert: str = ""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Generation:
        """The generation of a row that `to_json` made."""
        return cls(**{**row, "logprobs": _logprobs(row), "calls": _calls(row)})


@dataclass(frozen=True, slots=True)
class Delta:
    """What one engine step added to the call with this `id`: text, and with the last delta the whole generation.

    The texts of a call's deltas add up to the text of its generation, and so do their `logprobs`.
    """

    id: str
    text: str
    generation: Generation | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@quick(frozen=True, slots=True)
class Candidate:
    """One expert's answer to one query, and the lane by which the expert was loaded.

    `shared` marks a candidate that was generated for another assignment, where its tokens are counted.
    """

    query_id: str
    expert: str
    slot: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    lane: Lane
    shared: bool = False
    logprobs: tuple[TokenLogprob, ...] = ()
    stop: str | None = None
    calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    reasoning_tokens: int = 0

    @property
    def assignment(self) -> Assignment:
        """The assignment that it answers."""
        return Assignment(self.query_id, self.expert, self.slot)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Candidate:
        """The candidate of a row that `to_json` made."""
        return cls(**{**row, "logprobs": _logprobs(row), "calls": _calls(row)})


def _calls(row: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**each) for each in row.get("calls", ()))


def _logprobs(row: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(each["token"], each["logprob"], tuple((text, logprob) for text, logprob in each["top"]))
        for each in row.get("logprobs", ())
    )


@dataclass(frozen=True, slots=True)
class Image:
    """An expert's packed weights in memory that an engine can map: `nbytes` from `offset` of the file at `path`.

    Equal keys mean equal bytes. `model` is the directory of the tokenizer and config.
    """

    key: str
    model: str
    path: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """How an expert was loaded: the lane and the reason for it, the seconds, and the bytes that were moved.

    If several machines read the model together, `rates` are what they measured, and `saved` is by how many seconds this
    was faster than one machine reading alone; negative if it was slower. For an engine that was started ahead, it is
    how many seconds of that were over before it was waited for.
    """

    expert: str
    lane: Lane
    seconds: float
    bytes: int
    reason: str
    saved: float = 0.0
    rates: Rates | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A measured time of an expert: of one load by `lane`, or, without a lane, of the `requests` of one step.

    If several machines read the model together, `seconds` is what one would have taken alone, and `rates` are what they
    measured.
    """

    expert: str
    seconds: float
    lane: Lane | None = None
    bytes: int = 0
    requests: int = 0
    rates: Rates | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Observation:
        """The observation of a row that `to_json` made."""
        rates = row.get("rates")
        return cls(**{**row, "rates": Rates(**rates) if rates else None})


FIRST_TOKEN_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
BETWEEN_TOKENS_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
"""The upper bounds, in seconds, of the two histograms of `EngineStats`; they are vLLM's."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of durations by interval between bounds, the last beyond all bounds, and their sum in seconds."""

    counts: tuple[int, ...]
    seconds: float

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both together; the bounds must be the same."""
        return Histogram(tuple(map(sum, zip(self.counts, other.counts, strict=True))), self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's counts over a period, under vLLM's names. `running`, `waiting` and `kv_cache_usage` (0..1) are the
    values at its end. `preemptions` are requests put off because the KV cache was full; `prefix_cache_queries` and
    `prefix_cache_hits` are the tokens looked up in the prefix cache and those found.
    """

    running: int
    waiting: int
    kv_cache_usage: float
    prompt_tokens: int
    generation_tokens: int
    preemptions: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    first_token: Histogram
    between_tokens: Histogram

    def then(self, later: EngineStats) -> EngineStats:
        """The counts of this period and a later one together."""
        names = [each.name for each in fields(self)]
        now, counted = names[:3], names[3:]
        return EngineStats(
            **{name: getattr(later, name) for name in now},
            **{name: getattr(self, name) + getattr(later, name) for name in counted},
        )
