"""A request for an answer as the orchestrator takes it, and the report of how it went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from symmoe.answering import Routed
from symmoe.config import PriceConfig
from symmoe.policy import Policy
from symmoe.types import Generation, Query, Trace

from .events import Begun


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants: `n` answers to a query under a policy.

    No two orders have the same `id`. `key` identifies the client, for fair shares; `deadline` is in seconds from now.
    `patience` is how long it waits for an expert, None for the service's setting. `newcomers` are the experts that had
    joined while the service ran; `own_deadline` says that the deadline is the client's own, `costed` that the answer
    states its cost. One in the `background` waits for all others wherever there is a queue.
    """

    id: str
    query: Query
    key: str
    policy: Policy
    n: int = 1
    stream: bool = False
    explain: bool = False
    deadline: float = 300.0
    patience: float | None = None
    newcomers: str = ""
    own_deadline: bool = False
    background: bool = False
    costed: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """One expert's contribution: how its generation began, its result, and its start and end.

    Times are seconds since the request came in. `cost` is as in `PriceConfig.cost`.
    """

    expert: str
    begun: Begun
    generation: Generation
    asked: float = 0.0
    ended: float = 0.0
    cost: int = 0


@dataclass(slots=True, eq=False)
class Unfinished:
    """A generation that is not over, or was not awaited to its end, with the tokens known so far."""

    expert: str
    price: PriceConfig
    begun: Begun | None = None
    completion_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt, 0 while unknown."""
        return 0 if self.begun is None else self.begun.prompt_tokens

    @property
    def cost(self) -> int:
        """The cost of these tokens, as in `PriceConfig.cost`."""
        return self.price.cost(self.prompt_tokens, self.completion_tokens)


@dataclass(frozen=True, slots=True)
class Failed:
    """An expert that was asked and gave no answer, and its refusal's code."""

    expert: str
    code: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage after the experts': its name, its start after the request came in, and its length, in seconds.

    A stage that `failed` was skipped: see the answer's `why`.
    """

    name: str
    began: float
    seconds: float
    failed: bool = False


@dataclass(slots=True)
class Report:
    """How a request went, filled in as it proceeds. Times are seconds since it came in, or lengths.

    `began` is when the request came in, by `time.perf_counter`; `rerouted` how often other experts had to be found;
    `refused` the tokens of refused prompts and of failed generations. `also` names the experts asked for other prompts
    of the same request.
    """

    routed: Routed
    shares: list[Share] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    first_token: float | None = None
    total: float | None = None
    unfinished: list[Unfinished] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    began: float = 0.0
    rerouted: int = 0
    refused: int = 0
    also: tuple[str, ...] = ()

    @classmethod
    def together(cls, reports: Sequence[Report]) -> Report:
        """Of questions that came as one request, of which there is one at least: as routed as the first.

        It was answered when all were, and its first token is the earliest.
        """
        lists = ("shares", "begun", "traces", "unfinished", "failures", "stages")
        merged: dict[str, Any] = {
            name: [part for report in reports for part in getattr(report, name)] for name in lists
        }
        merged |= {name: sum(getattr(report, name) for report in reports) for name in ("rerouted", "refused")}
        merged["first_token"] = min(
            (report.first_token for report in reports if report.first_token is not None), default=None
        )
        merged["total"] = max((report.total for report in reports if report.total is not None), default=None)
        return replace(reports[0], **merged, also=tuple(name for report in reports for name in report.asked))

    @property
    def asked(self) -> tuple[str, ...]:
        """The experts asked, in the order of recruitment; before the first is asked, the candidates for that."""
        called: tuple[Sequence[Share | Unfinished | Failed], ...] = (self.shares, self.unfinished, self.failures)
        begun = {call.expert for calls in called for call in calls}
        recruited = dict.fromkeys(assignment.expert for assignment in self.routed.asked)
        started = [name for name in recruited if name in begun] or recruited
        return tuple(dict.fromkeys((*started, *self.also)))

    @property
    def now(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self.began

    @property
    def prompt_tokens(self) -> int:
        """Of all generations together."""
        return sum(share.generation.prompt_tokens for share in self.shares)

    @property
    def completion_tokens(self) -> int:
        """Of all generations together."""
        return sum(share.generation.completion_tokens for share in self.shares)

    @property
    def reasoning_tokens(self) -> int:
        """Of all generations together: part of the completion tokens."""
        return sum(share.generation.reasoning_tokens for share in self.shares)

    @property
    def spent_tokens(self) -> int:
        """All tokens spent, including generations cut short or failed."""
        cut = sum(each.prompt_tokens + each.completion_tokens for each in self.unfinished)
        return self.prompt_tokens + self.completion_tokens + cut + self.refused

    @property
    def cost(self) -> int:
        """Of all generations together, as `PriceConfig.cost` counts."""
        return sum(share.cost for share in self.shares) + sum(each.cost for each in self.unfinished)
