"""`symmoe route`: which experts would be asked, and why; nothing is generated."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options

SHOWN = 6


def route(
    question: Annotated[str, typer.Argument(help="The question.")],
    pool: options.Pool = "starter",
    k: options.K = None,
    budget: options.Budget = None,
    seed: options.Seed = 0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the evidence, and why each expert was chosen or not.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show which experts would be asked a question, and why. No expert is loaded."""
    from symmoe.asking import query_of
    from symmoe.build import Assembly, stale_experts
    from symmoe.config import read_pool
    from symmoe.types import to_json

    from .render import show, show_json, tell

    config = options.with_budget(read_pool(pool), budget)
    options.warn_if_unrecorded(config)
    query = query_of(config, question)
    assembly = Assembly(config)
    recruiter = assembly.recruiter
    skills = assembly.tagger.tag([query])[0]
    most = k or config.routing.k
    explanation = recruiter.explain(query, skills, most, seed) if explain or json else None
    recruited = [a.expert for a in recruiter.recruit([query], [skills], most, seed)[0].assignments]
    stale = stale_experts(config, assembly.profiles())
    if json:
        needed = {key: value for key, value in to_json(skills).items() if key != "vector"}
        facts = {"recruited": recruited, "skills": needed, "explanation": to_json(explanation)}
        show_json(facts | {"stale": stale})
        return
    if stale:
        tell(f"stale records: {', '.join(stale)} (weights changed since; run `symmoe profile build`)")
    if explain:
        show(*explanation_tables(skills.matches, skills.facets, explanation))
    show(f"asked: {', '.join(recruited)}")


def explanation_tables(matches: Any, facets: Any, explanation: Any) -> list[Any]:
    """The skills, assessments and costs of an explanation as tables."""
    from .render import percent, table

    weights = dict(explanation.weights)
    needed = [(m.skill, f"{m.similarity:.2f}", percent(weights.pop(m.skill, 0.0))) for m in matches]
    needed += [(facet, "", percent(weights.pop(facet, 0.0))) for facet in facets]
    needed += [(name, "", percent(weight)) for name, weight in weights.items()]
    standings = [
        (
            s.expert,
            percent(s.share),
            f"{percent(s.value)} ({percent(s.low)}–{percent(s.high)})",
            ", ".join(
                f"{name.removeprefix('format: ')} {t.right:g}/{t.asked:g}" for name, t in [*s.evidence.items()][:1]
            ),
            "yes" if s.chosen else "",
            s.why,
        )
        for s in explanation.standings[:SHOWN]
    ]
    more = len(explanation.standings) - len(standings)
    costs = [
        (n, ", ".join(s.expert for s in explanation.standings[:n]), f"{cost:.0f}")
        for n, cost in enumerate(explanation.costs[:5], start=1)
    ]
    columns = ("expert", "share %", "expected % (95 %)", "right of asked", "asked", "why")
    tables: list[Any] = [
        table("Skills that the question needs", ("skill", "similarity", "weight %"), needed, right=(1, 2)),
        table(f"Experts ({explanation.recruiter})", columns, standings, right=(1, 2)),
        table("Cost of asking the first k", ("k", "experts", "tokens"), costs, right=(0, 2)),
    ]
    notes = [f"and {more} experts with a smaller share (--json shows all)"] if more else []
    return [*tables[:2], *notes, tables[2], *([explanation.note] if explanation.note else [])]
