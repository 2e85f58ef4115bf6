"""`symmoe bench gate`: what reading the candidates is worth, and how often no aggregator is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def gate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/gate.json"),
    pool: options.Pool = "starter",
    reward: Annotated[
        str | None, typer.Option("--reward", help="A reward model to use in place of the pool's.")
    ] = None,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Questions of each family and split.")] = 40,
    draws: Annotated[int, typer.Option("--draws", min=0, help="Times that the best experts are asked again.")] = 4,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, help="Of those draws.")] = 1.0,
    seed: options.Seed = 1,
    json: options.Json = False,
) -> None:
    """Choose among the same candidates with and without the gate, and sweep when to ask an aggregator.

    Thresholds are fitted on validation questions, and all figures are of held-out ones. What the experts write is kept
    beside the report: run again, only what is missing is asked.
    """
    from symmoe.bench.gate import measure, plot_sweep
    from symmoe.build import Assembly, check_weights
    from symmoe.config import RewardConfig, read_pool
    from symmoe.questions.families import FAMILIES
    from symmoe.questions.suites import mixed_suite
    from symmoe.training.answers import Drawing

    from .render import show, show_json, watching, write_report

    described = read_pool(pool)
    if reward is not None:
        described = described.model_copy(update={"reward": RewardConfig(model=reward)})
    check_weights(described)
    validation, held_out = (mixed_suite(list(FAMILIES), per_family, split, seed) for split in ("profile", "test"))
    drawing = Drawing(draws, temperature=temperature)
    with watching("asking, judging, aggregating") as watch:
        report = measure(Assembly(described), validation, held_out, drawing, out.parent / f"{out.stem}-outputs", watch)
    write_report(report, out)
    plot = out.with_suffix(".plot.png" if out.suffix == ".png" else ".png")
    plot_sweep(report["skipping"], plot)
    if json:
        show_json(report)
        return
    show(*_tables(report), f"report in {out}, plot in {plot}")


def _tables(report: dict[str, Any]) -> list[Any]:
    from .render import percent, table

    rows = [
        (
            setting.replace("_", " "),
            name.replace("_", " "),
            percent(row["accuracy"]),
            _points(row["over_plain_vote"]),
            _points(row["over_profile_vote"]),
        )
        for setting, told in report["choosing"].items()
        for name, row in told["ways"].items()
    ]
    columns = ("candidates", "way", "right %", "over plain vote", "over profile vote")
    skipped = report["skipping"]
    lines = [
        (name, percent(row["skipped"]), _points({"points": row["loss"], "ci95": _interval(row)}))
        for name, row in (("validation", skipped["validation"]), ("held out", skipped["held_out"]))
    ]
    return [
        table("Choosing among the same candidates (points, 95 %)", columns, rows, right=(2, 3, 4)),
        table(
            f"Skipping {report['aggregator']} as aggregator", ("questions", "skipped %", "loss"), lines, right=(1, 2)
        ),
    ]


def _interval(row: dict[str, Any]) -> list[float]:
    return list(row["ci95"]) if "ci95" in row else [row["low"], row["high"]]


def _points(told: dict[str, Any]) -> str:
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(told["points"], *told["ci95"])
