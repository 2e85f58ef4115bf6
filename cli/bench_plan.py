"""`symmoe bench plan`: plans against simple ways and the lower bound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def plan(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/plan.json"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Pools of each size.")] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it works.")] = False,
    json: options.Json = False,
) -> None:
    """Plan simulated pools with published costs: makespans of four ways, and how far from the lower bound."""
    from symmoe.bench.planning import QUICK, SIZES, measure

    from .render import narrating, show, show_json, write_report

    with narrating("planning") as tell:
        report = measure(range(seeds), QUICK if quick else SIZES, tell)
    write_report(report, out)
    if json:
        show_json(report)
        return
    show(*_tables(report), f"report in {out}")


def _tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    ways = list(report["cases"][0]["over_bound"])
    rows = [
        (
            case["experts"],
            case["devices"],
            f"{case['bound_seconds']:.0f}",
            *("{median:.3f} ({worst:.3f})".format(**case["over_bound"][way]) for way in ways),
            "{median:.2f} ({worst:.2f})".format(**case["planning_seconds"]),
        )
        for case in report["cases"]
    ]
    bars = [
        (_named(name, bar), "-" if bar["measured"] is None else f"{bar['measured']:.3f}", bar["bar"], _met(bar))
        for name, bar in report["bars"].items()
    ]
    wrong = [
        (name, *("{median:.2f} ({worst:.2f})".format(**spread) for spread in ways_of.values()))
        for name, ways_of in report["gone_wrong"].items()
    ]
    seeds = len(report["settings"]["seeds"])
    columns = ("experts", "devices", "bound s", *ways, "planning s")
    return [
        table(f"Makespan by lower bound, median (worst) of {seeds} pools", columns, rows, right=range(9)),
        table(
            "The published pool when costs are not those planned for: makespan by the planned one",
            ("costs", *next(iter(report["gone_wrong"].values()))),
            wrong,
            right=range(1, 6),
        ),
        table("Bars", ("what", "measured", "bar", "met"), bars, right=(1, 2)),
    ]


def _named(name: str, bar: dict[str, Any]) -> str:
    """The bar's name, with the number of pools that it could be judged on where that is not all."""
    return name.replace("_", " ") + (f" ({bar['pools']} pools)" if "pools" in bar else "")


def _met(bar: dict[str, Any]) -> str:
    return "no case" if bar["met"] is None else "yes" if bar["met"] else "NO"
