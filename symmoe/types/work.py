"""Work for experts: what is planned, loaded and generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from symmoe.types.questions import Query, ToolCall
from symmoe.types.skills import Assignment

Lane = Literal["resident", "held", "adapter", "swap", "merged", "wake", "rebuild"]


@dataclass(frozen=True, slots=True)
class Call:
    """One generation: the query that words it, and every assignment that its outcome serves.

    Greedy generations of equal prompts are equal, so assignments that differ only in slot or in the query's id share
    one call.
    """

    expert: str
    query: Query
    serves: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second measured by machines that read one model between them.

    `alone` is what storage gives one machine while no other reads, `storage` what it gives all of them at once, `link`
    what each receives while all send. `overhead` is the seconds before the first byte, for connecting and measuring.
    `measured` is the time, in seconds since 1970.
    """

    alone: float
    storage: float
    link: float
    overhead: float
    measured: float

    def gathered(self, nbytes: int, machines: int) -> float:
        """Seconds until each of so many machines has the bytes, if each byte is read once."""
        received = nbytes * (machines - 1) / machines
        return max(nbytes / machines / self.alone, nbytes / self.storage, received / self.link) + self.overhead


@dataclass(frozen=True, slots=True)
class Joint:
    """Steps of several workers that begin at the same moment, so that their machines share one reading of a model.

    `number` identifies it in a plan, and `workers` is how many begin. Those that arrive wait `patience` seconds for the
    others. `rates` are earlier bandwidths of storage and link, if known.
    """

    number: int
    workers: int
    patience: float
    rates: Rates | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one expert on one worker: it is made ready there once, and then answers every call."""

    expert: str
    calls: tuple[Call, ...]
    worker: int = 0
    joint: Joint | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a batch; each worker runs its own in this order. No expert appears twice on one worker."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A query's token ids, ready for an expert's turn, as the tokenizer of the checkpoint in `model` has them."""

    model: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token as text, its natural log-probability, and those of the likeliest tokens in its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """What the engine gave for one call: `logprobs` where they were asked for, and the stop sequence that ended it.

    `calls` are those of tools that its text makes. `reasoning` is what was thought and is no part of the text. Of an
    answer, `expert` is whose words they are.
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
        """The generation that `to_json` wrote."""
        return cls(**{**row, "logprobs": _logprobs(row), "calls": _calls(row)})


@dataclass(frozen=True, slots=True)
class Delta:
    """What an engine's step added to the call called `id`: text, and at the end the finished generation.

    The texts of a call's deltas add up to the text of its generation, and so do their `logprobs`.
    """

    id: str
    text: str
    generation: Generation | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One expert's answer to one query, and the lane by which that expert was ready.

    `shared` marks a candidate whose tokens were spent on another assignment.
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
        """What it answers."""
        return Assignment(self.query_id, self.expert, self.slot)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Candidate:
        """The candidate that `to_json` wrote."""
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

    `key` names the weights: equal keys mean equal bytes. `model` is the directory of its tokenizer and config.
    """

    key: str
    model: str
    path: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """How an expert was made ready: by which lane, in how many seconds, moving how many bytes.

    Where machines met to read its model between them, `rates` are what they measured, and `saved` the seconds by which
    that was shorter than one machine's reading alone, below 0 where it only cost time.
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
    """What one load of an expert took, by which lane, moving how many bytes; without a lane, one step's requests.

    A load is told as if a machine had read alone what several read between them; `rates` are what these measured.
    """

    expert: str
    seconds: float
    lane: Lane | None = None
    bytes: int = 0
    requests: int = 0
    rates: Rates | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Observation:
        """The observation that `to_json` wrote."""
        rates = row.get("rates")
        return cls(**{**row, "rates": Rates(**rates) if rates else None})


FIRST_TOKEN_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
BETWEEN_TOKENS_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
"""The bounds of `EngineStats`' histograms in seconds, which are vLLM's."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many durations were longer than one bound and no longer than the next, last those beyond all; their sum."""

    counts: tuple[int, ...]
    seconds: float

    def __add__(self, other: Histogram) -> Histogram:
        """Of both together."""
        return Histogram(tuple(map(sum, zip(self.counts, other.counts, strict=True))), self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine counted over a time, by vLLM's names: tokens, cached tokens looked for and found, requests put off
    for want of room. `running`, `waiting` and `kv_cache_usage` (0 to 1) are as of the end.
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
        """Of this time and a later one together."""
        names = [each.name for each in fields(self)]
        now, counted = names[:3], names[3:]
        return EngineStats(
            **{name: getattr(later, name) for name in now},
            **{name: getattr(self, name) + getattr(later, name) for name in counted},
        )
