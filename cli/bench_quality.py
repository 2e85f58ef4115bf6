"""`symmoe bench quality`: the headline comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def quality(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the report goes; an HTML page goes beside it.")
    ] = Path("out/bench/quality.json"),
    pool: options.Pool = "starter",
    suite: Annotated[
        list[Path] | None, typer.Option("--suite", help="Questions (JSONL); repeat it. Default: kept-apart ones.")
    ] = None,
    per_family: Annotated[
        int,
        typer.Option("--per-family", min=1, help="Without --suite: questions of each family, in each of two suites."),
    ] = 6,
    k: options.K = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="Of every way; 0.7 is the published one.")
    ] = 0.7,
    proposers: Annotated[
        int | None,
        typer.Option("--proposers", min=1, help="Experts of Mixture-of-Agents, best record first; else all."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Draws of Self-MoA.")] = 6,
    aggregator: Annotated[
        str | None, typer.Option("--aggregator", help="Expert that aggregates for the rivals; else the best on record.")
    ] = None,
    seed: options.Seed = 2026,
    json: options.Json = False,
) -> None:
    """Answer the same questions in every way: symmoe, single experts, votes, mixtures, Symbolic-MoE, an oracle."""
    from symmoe.bench.quality import compare, kept_apart, read_suites
    from symmoe.bench.quality_page import render
    from symmoe.build import Assembly, check_weights
    from symmoe.config import read_pool

    from .render import show, show_json, watching, write_report

    suites = read_suites(suite) if suite else kept_apart(per_family, seed)
    described = read_pool(pool)
    named = described.expert(aggregator).name if aggregator else None
    check_weights(described)
    assembly = Assembly(described)
    with watching("answering") as watch:
        report = compare(
            assembly, suites, k or described.routing.k, seed, temperature, proposers, samples, watch, aggregator=named
        )
    write_report(report, out)
    page = out.with_suffix(".html")
    page.write_text(render(report), encoding="utf-8")
    if json:
        show_json(report)
        return
    show(*_tables(report), f"report in {out}, page in {page}")


def _tables(report: dict[str, Any]) -> list[Any]:
    from symmoe.bench.quality_page import BARS, NAMES

    from .render import table

    rows = [
        (
            NAMES[name],
            f"{row['accuracy']:.1f}",
            "{:.1f}–{:.1f}".format(*row["ci95"]),
            _signed(row["symmoe_leads_by"]),
            row["calls"],
            row["prompt_tokens"],
            row["completion_tokens"],
            f"{row['seconds']:.1f}",
        )
        for name, row in report["ways"].items()
    ]
    columns = ("way", "right %", "95 %", "symmoe leads by (95 %)", "calls", "prompt", "completion", "s")
    families = [(NAMES[name], *(f"{v:.0f}" for v in row["families"].values())) for name, row in report["ways"].items()]
    claims = [(BARS[name], _signed(bar), "yes" if bar["holds"] else "no") for name, bar in report["bars"].items()]
    title = f"{report['questions']} questions, k = {report['settings']['k']}"
    return [
        table(title, columns, rows, right=range(1, 8)),
        table("Right on each family, %", ("way", *report["families"]), families, right=range(1, 99)),
        table("symmoe is", ("claim", "points (95 %)", "holds"), claims, right=(1,)),
    ]


def _signed(row: dict[str, Any] | None) -> str:
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(row["points"], *row["ci95"]) if row else ""
