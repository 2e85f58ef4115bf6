"""The names under which a pool can be asked, and what each means for how a question is answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from symmoe.config import Pool
from symmoe.errors import RequestError
from symmoe.types import Recruitment, Way

Aggregate = Literal["auto", "always", "never"]
AUTO, FAST, BEST = "symmoe/auto", "symmoe/fast", "symmoe/best"
_LONGEST_NAME = 80
"""How much of a model's name that there is not is repeated."""


@dataclass(frozen=True, slots=True)
class Model:
    """One name under which a pool can be asked. `expert` is None for a virtual model, `parent` an adapter's base."""

    name: str
    description: str
    expert: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How a question is answered. Hashable: questions of one policy are recruited for together.

    `expert`, if named, is asked alone. Otherwise at most `k` experts are recruited, whose answers are expected to take
    at most `budget` tokens; `full` fills all k slots. None of those in `without` (sorted) is asked. With `aggregate`
    "auto" the first expert's answer stands alone if its share of the recruiter's mass is `trust` or more. With
    `quality`, 0 to 1, the recruited are asked in waves until their leading answer is believed to be right with that
    probability; without it all at once. `fallbacks` are asked in order if the named expert is unavailable. The expert
    with which a question `stays` is asked alone, and others are recruited if it is unavailable. Raises `RequestError`
    for values out of range.
    """

    k: int = 1
    budget: float | None = None
    full: bool = False
    aggregate: Aggregate = "auto"
    trust: float = 0.5
    without: tuple[str, ...] = ()
    expert: str | None = None
    quality: float | None = None
    fallbacks: tuple[str, ...] = ()
    stays: str | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise _bounds_nothing("k", self.k, "1 or more")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise _bounds_nothing("budget", self.budget, "a number of tokens above 0")
        if self.quality is not None and not 0 <= self.quality <= 1:
            raise _bounds_nothing("quality", self.quality, "a probability, 0 to 1")

    def excluding(self, experts: tuple[str, ...]) -> Policy:
        """The same policy without these experts, too."""
        stays = None if self.stays in experts else self.stays
        return replace(self, without=tuple(sorted({*self.without, *experts})), stays=stays)

    def staying(self, expert: str | None) -> Policy:
        """The same for a question that continues what this expert began, if none is named and it may be asked."""
        return self if self.expert is not None or expert in self.without else replace(self, stays=expert)

    def able(self, unable: tuple[str, ...]) -> Policy:
        """The same policy for a question that these experts cannot take, not even as fallbacks."""
        left = tuple(expert for expert in self.fallbacks if expert not in unable)
        return replace(self.excluding(unable), fallbacks=left)

    def way(self, recruitment: Recruitment) -> Way:
        """How the answers of the recruited experts become one."""
        if self.expert is not None:
            return "named"
        first = recruitment.assignments[0].expert
        trusted = recruitment.shares.get(first, 0.0) >= self.trust
        alone = len(recruitment.assignments) == 1 or self.aggregate == "never"
        return "single" if alone or (self.aggregate == "auto" and trusted) else "aggregated"


def _bounds_nothing(name: str, given: float, wanted: str) -> RequestError:
    return RequestError(f"{name}: {given} is not {wanted}", code="invalid_value", param=name)


def catalogue(pool: Pool) -> dict[str, Model]:
    """Every model of a pool by its name, the virtual ones first."""
    virtual = (
        Model(AUTO, "The experts that the question calls for; their answers are put together where that helps."),
        Model(FAST, "The one expert that the question calls for, streamed as it writes."),
        Model(BEST, "As many experts as the pool allows for a question, their answers always put together."),
    )
    experts = (
        Model(each.name, each.description, each.name, each.model if each.adapter else None) for each in pool.experts
    )
    return {model.name: model for model in (*virtual, *experts)}


def known_model(models: Mapping[str, Model], name: str) -> Model:
    """The model of that name. Raises `RequestError` where there is none."""
    if name not in models:
        message = f"no such model: {_quoted(name)}; GET /v1/models or `symmoe pool show` lists what there is"
        raise RequestError(message, code="model_not_found", param="model", status=404)
    return models[name]


def _quoted(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…")


def policy_for(
    pool: Pool,
    model: Model | str = AUTO,
    k: int | None = None,
    budget: float | None = None,
    aggregate: Aggregate | None = None,
    quality: float | None = None,
) -> Policy:
    """What a model of a pool means, where the request does not say otherwise.

    All experts are asked at once, whatever the pool's dial, if answers are always synthesised.
    """
    name, expert = (model.name, model.expert) if isinstance(model, Model) else (model, None)
    most = 1 if name == FAST else pool.routing.k
    usual: Aggregate = "always" if name == BEST else "auto"
    dial = None if (aggregate or usual) == "always" else pool.aggregation.quality
    return Policy(
        k=most if k is None else k,
        budget=pool.routing.budget if budget is None else budget,
        full=name == BEST,
        aggregate=aggregate or usual,
        trust=pool.aggregation.trust,
        expert=expert,
        fallbacks=() if expert is None or expert not in pool.names else pool.expert(expert).fallbacks,
        quality=dial if quality is None else quality,
    )
