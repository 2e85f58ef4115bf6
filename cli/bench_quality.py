"""`symmoe bench quality`: symmoe against single experts, votes, mixtures, Symbolic-MoE and an oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def quality(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Write the report to this file, and an HTML page beside it.")
    ] = Path("out/bench/quality.json"),
    pool: options.Pool = "tiny",
    suite: Annotated[
        list[Path] | None, typer.Option("--suite", help="Questions (JSON lines); repeatable. Default: test split.")
    ] = None,
    per_family: Annotated[
        int,
        typer.Option("--per-family", min=1, help="Without --suite: questions of each family, in each of two suites."),
    ] = 6,
    everyday: Annotated[
        int | None,
        typer.Option("--everyday", min=0, help="Without --suite: everyday questions; default: all 68, tiny: 0."),
    ] = None,
    k: options.K = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="Temperature of every way; 0.7 is the published one.")
    ] = 0.7,
    proposers: Annotated[
        int | None,
        typer.Option("--proposers", min=1, help="Experts of Mixture-of-Agents, best record first; default: all."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Draws of Self-MoA.")] = 6,
    aggregator: Annotated[
        str | None, typer.Option("--aggregator", help="The rivals' aggregator; default: the best on record.")
    ] = None,
    seed: options.Seed = 2026,
    json: options.Json = False,
) -> None:
    """Answer the same questions with symmoe, single experts, votes, mixtures, Symbolic-MoE and an oracle.

    Answers of experts are kept beside the report; after an interruption, or with more questions of each family, a
    further run asks only for those that are missing.
    """
    from symmoe.bench.quality import EVERYDAY, compare, kept_apart, read_suites, render
    from symmoe.build import Assembly
    from symmoe.config import TINY, read_pool

    from .render import show_measured, watching, write_report

    config = read_pool(pool)
    kept = out.with_name(f"{out.stem}-answers.jsonl")
    everyday_count = EVERYDAY * (config.name != TINY) if everyday is None else everyday
    suites = read_suites(suite) if suite else kept_apart(per_family, seed, everyday_count)
    named = config.expert(aggregator).name if aggregator else None
    options.fetch_and_verify(config)
    assembly = Assembly(config)
    with watching("answering") as watch:
        report = compare(
            assembly,
            suites,
            k or config.routing.k,
            seed,
            temperature,
            proposers,
            samples,
            watch,
            aggregator=named,
            kept=kept,
        )
    write_report(report, out)
    page = out.with_suffix(".html")
    page.write_text(render(report), encoding="utf-8")
    show_measured(report, out, json, lambda report: [*_tables(report), f"page in {page}"])


def _tables(report: dict[str, Any]) -> list[Any]:
    from textwrap import fill

    from symmoe.bench.quality import BARS, NAMES

    from .render import points, table

    ways = report["ways"]
    rows = [
        (
            number,
            fill(NAMES[name], 18),
            "{:.1f} ({:.0f}–{:.0f})".format(row["accuracy"], *row["ci95"]),
            points(row["symmoe_leads_by"], 1),
            row["calls"],
            row["completion_tokens"],
            f"{row['seconds']:.0f}",
        )
        for number, (name, row) in enumerate(ways.items(), 1)
    ]
    columns = ("", "way", "right % (95 %)", "symmoe leads by", "calls", "tokens", "s")
    families = [(family, *(f"{row['families'][family]:.0f}" for row in ways.values())) for family in report["families"]]
    numbers = tuple(str(number) for number in range(1, 1 + len(ways)))
    claims = [(BARS[name], points(bar), "yes" if bar["holds"] else "no") for name, bar in report["bars"].items()]
    return [
        table(
            f"{report['questions']} questions, k = {report['settings']['k']}", columns, rows, (0, 2, 3, 4, 5, 6), (1,)
        ),
        table("Right on each family, %, by number of the way", ("family", *numbers), families, right=range(1, 99)),
        table("symmoe is", ("claim", "points (95 %)", "holds"), claims, right=(1,)),
    ]
