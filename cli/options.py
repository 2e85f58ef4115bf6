"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from symmoe.config import Pool as PoolFile
    from symmoe.types import Query

Pool = Annotated[str, typer.Option("--pool", help="starter, a preset's name, or a pool file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
K = Annotated[int | None, typer.Option("--k", min=1, max=64, help="Most experts for each question; else the pool's.")]
Budget = Annotated[
    float | None, typer.Option("--budget", min=1, help="Most tokens that a question's answers are expected to take.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=999_999, help="Decides every random choice.")]


def query_of(pool: PoolFile, question: str) -> Query:
    """A question of the command line under the pool's sampling; `RequestError` where it is empty."""
    from symmoe.errors import RequestError
    from symmoe.types import Message, Query, Sampling

    if not question.strip():
        raise RequestError("the question is empty", code="empty_prompt")
    defaults = pool.sampling
    sampling = Sampling(defaults.max_tokens, defaults.temperature, defaults.top_p)
    return Query("question", (Message("user", question),), sampling)


def with_budget(pool: PoolFile, budget: float | None) -> PoolFile:
    """The pool with another budget, if one is given."""
    from symmoe.errors import RequestError

    if budget is None:
        return pool
    if not budget < float("inf"):
        raise RequestError(f"a budget of {budget} tokens is no budget", code="bad_budget")
    return pool.model_copy(update={"routing": pool.routing.model_copy(update={"budget": budget})})


WithoutRayToken = Annotated[
    bool,
    typer.Option(
        "--without-ray-token", help="Use a Ray cluster that runs code for whoever reaches it: no token asked."
    ),
]
