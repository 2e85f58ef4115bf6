"""`symmoe skill`: learn and show taxonomies of skills."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options

app = typer.Typer(help="Learn and show taxonomies of skills.", no_args_is_help=True)


@app.command("learn")
def learn(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="TAXONOMY.yaml", help="Write the taxonomy to this file.")],
    suite: Annotated[
        list[Path] | None,
        typer.Option("--suite", help="Questions to learn from; repeatable. Default: the profile split."),
    ] = None,
    pool: options.Pool = "starter",
    annotator: Annotated[
        str | None,
        typer.Option(
            "--annotator", help="Have this expert name skills, in five passes a question; default: no expert."
        ),
    ] = None,
    per_skill: Annotated[int, typer.Option("--per-skill", min=8, help="Questions per skill, approximately.")] = 45,
    per_family: options.PerFamily = 24,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Cluster questions into skills and name them. Edit the file as needed, and set routing.taxonomy to it."""
    from symmoe.build import Assembly, build_embedder
    from symmoe.config import read_pool
    from symmoe.profiles.building import annotate
    from symmoe.questions.suites import mixed_suite, read_suite
    from symmoe.routing.facets import facets_of
    from symmoe.routing.learning import learn_taxonomy
    from symmoe.routing.taxonomy import write_taxonomy

    from .render import show, show_json, table, watching

    config = read_pool(pool)
    if suite:
        texts = [question.question for path in suite for question in read_suite(path)]
    else:
        texts = [question.question for question in mixed_suite(per_family, "profile", seed)]
    keywords = None
    if annotator is not None:
        named = config.expert(annotator).name
        options.fetch_and_verify(config)
        with watching(f"{named} names skills") as watch:
            keywords = annotate(Assembly(config), named, texts, seed, watch)
    vectors = build_embedder(config).embed(texts)
    forms = [facets_of(text)[0] for text in texts]
    skills = learn_taxonomy(texts, vectors, forms, seed, keywords, per_skill)
    by = f"named by {annotator}" if annotator else "named by their distinctive words"
    write_taxonomy(out, skills, f"{len(skills)} skills learned from {len(texts)} questions, {by}, seed {seed}")
    if json:
        annotated = None if keywords is None else sum(map(bool, keywords))
        rows = [{"name": skill.name, "facet": skill.facet, "description": skill.description} for skill in skills]
        show_json({"out": str(out), "questions": len(texts), "annotated": annotated, "skills": rows})
        return
    rows_shown = [(skill.name, skill.facet, skill.description) for skill in skills]
    show(table(f"{len(skills)} skills in {out}", ("skill", "facet", "description"), rows_shown))


@app.command("show")
def show_skills(pool: options.Pool = "starter", json: options.Json = False) -> None:
    """Show the taxonomy of a pool."""
    from symmoe.build import pool_taxonomy
    from symmoe.config import read_pool
    from symmoe.types import to_json

    from .render import show, show_json, table

    skills = pool_taxonomy(read_pool(pool))
    if json:
        show_json([to_json(skill) for skill in skills])
        return
    rows = [(skill.name, skill.facet, skill.description, len(skill.examples)) for skill in skills]
    show(table("Taxonomy", ("skill", "facet", "description", "examples"), rows, right=(3,)))
