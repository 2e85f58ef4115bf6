"""The models that a service offers: the virtual ones, every expert, every adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symmoe.config import Pool

Aggregate = Literal["auto", "always", "never"]
AUTO, FAST, BEST = "symmoe/auto", "symmoe/fast", "symmoe/best"


@dataclass(frozen=True, slots=True)
class Model:
    """One name under which a service can be asked. `expert` is None for a virtual model, `parent` an adapter's base."""

    name: str
    description: str
    expert: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Choosing:
    """How the experts of a question are chosen: at most `k`, within `budget` tokens; `full` fills every slot.

    `without` names, sorted, whom it may not be.
    """

    k: int
    budget: float | None = None
    full: bool = False
    aggregate: Aggregate = "auto"
    without: tuple[str, ...] = ()


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


def choosing(pool: Pool, model: str, k: int | None, budget: float | None, aggregate: Aggregate | None) -> Choosing:
    """What a virtual model means for a pool, where the request does not say otherwise."""
    most = 1 if model == FAST else pool.routing.k
    usual: Aggregate = "always" if model == BEST else "auto"
    return Choosing(k or most, budget or pool.routing.budget, model == BEST, aggregate or usual)
