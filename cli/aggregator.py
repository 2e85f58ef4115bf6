"""`symmoe aggregator`: how well each expert combines several answers into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

app = typer.Typer(help="Measure how well experts combine several answers into one.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure how well experts combine several answers into one."""


@app.command("bench")
def bench(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE.json", help="Write the profiles, with the measured skills, to this file."
        ),
    ] = None,
    pool: options.Pool = "starter",
    suite: options.Validation = None,
    per_family: options.PerFamily = 8,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Have every expert give the final answer from one right and two wrong candidates (the task of Symbolic-MoE).

    Without --out nothing is kept; with it, the skills are added to the pool's profiles.
    """
    from symmoe.build import Assembly
    from symmoe.config import read_pool
    from symmoe.profiles.aggregators import bench_aggregators, with_aggregation
    from symmoe.questions.suites import suite_at
    from symmoe.routing.profile_files import write_profiles
    from symmoe.types import Profiles

    from .render import show_result, watching

    config = read_pool(pool)
    questions = suite_at(suite, per_family, "profile", seed)
    options.fetch_and_verify(config)
    assembly = Assembly(config)
    known = assembly.profiles() if config.routing.profiles else Profiles({})
    with watching("aggregating") as watch:
        measured = bench_aggregators(assembly, questions, seed, watch)
    report = _report(measured)
    if out is not None:
        source = suite.name if suite else f"profile split, {per_family} of each family, seed {seed}"
        write_profiles(out, with_aggregation(known, measured), _about(config, source))
        report["out"] = str(out)
    show_result(json, report, _table(report), *([f"profiles in {out}"] if out else []))


def _report(measured: Any) -> dict[str, Any]:
    from symmoe.profiles.aggregators import over_chance
    from symmoe.types import Tally

    experts = {}
    for name, kinds in measured.skills.items():
        overall = Tally(sum(t.right for t in kinds.values()), sum(t.wrong for t in kinds.values()))
        experts[name] = {
            kind: {"right": tally.right, "asked": tally.asked, "over_chance": round(over_chance(tally), 2)}
            for kind, tally in (("all", overall), *sorted(kinds.items()))
        }
    generated = sum(len(task.made) for task in measured.tasks)
    return {
        "tasks": len(measured.tasks),
        "left_out": measured.left_out,
        "candidates_made": generated,
        "experts": experts,
    }


def _about(pool: Any, source: str) -> dict[str, Any]:
    """The description in the pool's profile file, with the questions that aggregation was measured on."""
    from symmoe.build import profiles_file
    from symmoe.routing.profile_files import about_profiles

    path = profiles_file(pool)
    return (about_profiles(path) if path else {"pool": pool.name}) | {"aggregation": source}


def _table(report: dict[str, Any]) -> Any:
    from .render import table

    kinds = list(next(iter(report["experts"].values())))
    ranked = sorted(report["experts"].items(), key=lambda item: -item[1]["all"]["right"])
    rows = [(name, *(_cell(row.get(kind)) for kind in kinds)) for name, row in ranked]
    title = f"{report['tasks']} tasks: right/asked (points over chance)"
    return table(title, ("expert", *kinds), rows, right=range(1, len(kinds) + 1))


def _cell(skill: dict[str, Any] | None) -> str:
    return f"{skill['right']:g}/{skill['asked']:g} ({skill['over_chance']:+.0f})" if skill else ""
