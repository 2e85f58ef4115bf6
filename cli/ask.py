"""`symmoe ask`: answer one question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    pool: options.Pool = "starter",
    model: options.Model = "symmoe/auto",
    k: options.K = None,
    budget: options.Budget = None,
    quality: options.Quality = None,
    seed: options.Seed = 0,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="PATH", help="An image that the question is about; repeatable."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the evidence for every choice.")] = False,
    json: options.Json = False,
) -> None:
    """Answer one question with the experts that are best at the skills it needs."""
    from symmoe.asking import OpenPool, query_of
    from symmoe.errors import RequestError
    from symmoe.policy import catalogue, known_model, policy_for
    from symmoe.types import Refusal, to_json
    from symmoe.wire.chat import fitting

    from .render import coloured, show, show_json, watching

    with OpenPool(options.ready(pool)) as opened:
        query = query_of(opened.pool, question, images=image or ())
        chosen = known_model(catalogue(opened.pool), model)
        policy = policy_for(opened.pool, chosen, k, budget, quality=quality)
        policy = fitting(policy, opened.pool, query)
        with watching("asking") as watch:
            outcome = opened.outcome([query], policy, seed=seed, explain=explain or json, watch=watch)
    trace = outcome.results[0]
    if isinstance(trace, Refusal):
        raise RequestError(trace.message, code=trace.code)
    if json:
        show_json({"answer": trace.answer.text, "trace": to_json(trace), "seconds": dict(outcome.seconds)})
        return
    if explain:
        show(*_explanation(trace))
    show(coloured(trace.answer.text, "bold") if explain else trace.answer.text)


def _explanation(trace: Any) -> list[Any]:
    from .render import in_lines, percent, table
    from .route import explanation_tables

    weights = {(verdict.expert, verdict.slot): verdict.weight for verdict in trace.verdicts}
    candidates = [
        (in_lines(c.expert, 20), c.lane, f"{weights[c.expert, c.slot]:.2f}", c.completion_tokens, c.text)
        for c in trace.candidates
        if not c.shared
    ]
    votes = [(vote.answer, percent(vote.share), ", ".join(vote.experts)) for vote in trace.answer.votes]
    return [
        *explanation_tables(trace.skills, trace.facets, trace.explanation),
        table("Candidates", ("expert", "lane", "weight", "tokens", "answer"), candidates, right=(2, 3), whole=range(4)),
        table("Vote", ("answer", "share %", "experts"), votes, right=(1,)),
        *([f"{trace.answer.origin}: {trace.answer.why}"] if trace.answer.why else []),
    ]
