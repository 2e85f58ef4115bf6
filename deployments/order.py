"""A request for an answer as the orchestrator takes it, and the report on how it went."""

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

    No two orders have the same `id`. `key` says who it is, for fair shares; `deadline` is in seconds from now.
    `patience` is how long it waits for an expert, None for as long as the service's settings say. `newcomers` stands
    for the experts that joined while the service ran, as they were then; `own_deadline` says that the deadline is the
    client's own, `costed` that the answer tells what it cost.
    One in the `background` waits for all others wherever there is a queue.
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
    """What one expert contributed: how its generation began, what it gave, and from when to when it took.

    Times are seconds since the request came in. `cost` is counted as `PriceConfig.cost` does.
    """

    expert: str
    begun: Begun
    generation: Generation
    asked: float = 0.0
    ended: float = 0.0
    cost: int = 0


@dataclass(slots=True, eq=False)
class Unfinished:
    """A generation that is not over, or was not waited for to its end: the tokens that are known of it so far."""

    expert: str
    price: PriceConfig
    begun: Begun | None = None
    completion_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Those of its prompt, 0 where they are not known yet."""
        return 0 if self.begun is None else self.begun.prompt_tokens

    @property
    def cost(self) -> int:
        """Of these tokens, as `PriceConfig.cost` counts."""
        return self.price.cost(self.prompt_tokens, self.completion_tokens)


@dataclass(frozen=True, slots=True)
class Failed:
    """An expert that was asked and gave no answer, and the code of its refusal."""

    expert: str
    code: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage after the experts': its name, when it began after the request came in, and what it took, in seconds.

    One that `failed` was done without: see the answer's `why`.
    """

    name: str
    began: float
    seconds: float
    failed: bool = False


@dataclass(slots=True)
class Report:
    """How a request went, filled in while it goes on. Times are seconds since it came in, or lengths.

    `began` is when the request came in, by `time.perf_counter`; `rerouted` how often others had to be found; `refused`
    are the tokens of prompts that were refused, and of generations that came to nothing.
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

    @classmethod
    def together(cls, reports: Sequence[Report]) -> Report:
        """Of questions that came as one request, of which there is one at least: as routed as the first."""
        lists = ("shares", "begun", "traces", "unfinished", "failures", "stages")
        whole: dict[str, Any] = {name: [part for one in reports for part in getattr(one, name)] for name in lists}
        whole |= {name: sum(getattr(one, name) for one in reports) for name in ("rerouted", "refused")}
        return replace(reports[0], **whole)

    @property
    def asked(self) -> tuple[str, ...]:
        """Experts that were asked, in the order of their recruitment; before the first is, those who may be."""
        called: tuple[Sequence[Share | Unfinished | Failed], ...] = (self.shares, self.unfinished, self.failures)
        begun = {each.expert for calls in called for each in calls}
        recruited = dict.fromkeys(assignment.expert for assignment in self.routed.asked)
        return tuple(name for name in recruited if name in begun) or tuple(recruited)

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
        """All that it took, with what was cut short or came to nothing."""
        cut = sum(each.prompt_tokens + each.completion_tokens for each in self.unfinished)
        return self.prompt_tokens + self.completion_tokens + cut + self.refused

    @property
    def cost(self) -> int:
        """Of all generations together, as `PriceConfig.cost` counts."""
        return sum(share.cost for share in self.shares) + sum(each.cost for each in self.unfinished)
