"""`symmoe profile`: experts' records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options

app = typer.Typer(help="Build and show experts' records.", no_args_is_help=True)
LEAST_QUESTIONS = 3


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="Where the profiles go.")],
    pool: options.Pool = "starter",
    suite: Annotated[
        Path | None, typer.Option("--suite", help="Validation questions; default: the profile split of each family.")
    ] = None,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Questions of each family.")] = 24,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Ask every expert validation questions and record, skill by skill, what it got right and wrong."""
    from symmoe.build import Assembly, check_weights
    from symmoe.config import read_pool
    from symmoe.evaluation.matrix import run_matrix
    from symmoe.evaluation.scoring import as_query
    from symmoe.questions.families import FAMILIES
    from symmoe.questions.splits import mixed_suite
    from symmoe.questions.suites import read_suite
    from symmoe.routing.profiles import build_profile, write_profiles

    from .render import percent, show, show_json, table, watching

    described = read_pool(pool).without_profiles()
    check_weights(described)
    questions = read_suite(suite) if suite else mixed_suite(list(FAMILIES), per_family, "profile", seed)
    assembly = Assembly(described)
    with watching("asking everyone") as watch:
        matrix = run_matrix(assembly.executor, described.names, assembly.models, questions, described.sampling, watch)
    skills = assembly.tagger.tag([as_query(question, described.sampling) for question in questions])
    profiles = [build_profile(name, skills, matrix.right[name], LEAST_QUESTIONS) for name in described.names]
    about = {
        "pool": described.name,
        "questions": len(questions),
        "source": suite.name if suite else f"profile split, {per_family} of each family, seed {seed}",
    }
    write_profiles(out, profiles, about)
    if json:
        show_json(about | {"out": str(out), "right": {p.expert: p.right for p in profiles}})
        return
    rows = [(p.expert, percent(p.right / p.asked), _best(dict(p.scores))) for p in profiles]
    show(table(f"Profiles in {out}", ("expert", "right %", "best skills"), rows, right=(1,)))


@app.command("show")
def show_profiles(pool: options.Pool = "starter", json: options.Json = False) -> None:
    """Show what a pool's experts are on record for."""
    from symmoe.build import Assembly
    from symmoe.config import read_pool
    from symmoe.types import to_json

    from .render import percent, show, show_json, table

    profiles = Assembly(read_pool(pool)).profiles()
    if json:
        show_json({name: to_json(profile) for name, profile in profiles.items()})
        return
    rows = [
        (p.expert, p.asked, percent(p.right / p.asked) if p.asked else "", _best(dict(p.scores)))
        for p in profiles.values()
    ]
    show(table("Profiles", ("expert", "asked", "right %", "best skills"), rows, right=(1, 2)))


def _best(scores: dict[str, int]) -> str:
    best = sorted(scores.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{skill} {score:+d}" for skill, score in best if score > 0)
