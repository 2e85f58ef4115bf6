"""`symmoe bench siege`: the service under attack by one of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def siege(
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.5, help="How long it lasts, a third of it quiet; an hour for the whole.")
    ] = 10.0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/siege.json"),
    pool: options.Pool = "tiny",
    clients: Annotated[int, typer.Option("--clients", min=1, help="Friendly clients at once.")] = 10,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Lines of the friendly batch.")] = 200,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Serve friendly clients and a batch beside one hostile key; exit code 1 where it takes too much from them."""
    from symmoe.bench.siege import SiegeLoad, measure_siege
    from symmoe.config import read_pool

    from .render import narrating, show, show_json, write_report

    with narrating("besieging") as tell:
        report = measure_siege(read_pool(pool), pool, SiegeLoad(minutes, clients, lines, seed=seed), tell)
    write_report(report, out)
    if json:
        show_json(report)
    else:
        show(*_tables(report), f"report in {out}")
    if not report["met"]:
        raise typer.Exit(1)


def _tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    rows = [
        (
            name,
            report[name]["requests"],
            report[name]["kinds"].get("broken", 0),
            *(f"{value:.0f}" for value in (report[name]["latency_ms"] or {"p50": 0, "p99": 0}).values()),
            f"{report['batch'][name].get('completed', 0)} of {report['lines']}",
        )
        for name in ("quiet", "sieged")
    ]
    friends = table(
        f"Friends: p99 {report['p99_times']:.2f} times, at most {report['p99_target']:g}",
        ("part", "requests", "broken", "p50 ms", "p99 ms", "batch lines"),
        rows,
        right=range(1, 6),
    )
    grown = [(name, f"{times:.2f}") for name, times in list(report["memory_times"].items())[:8]]
    memory = table(f"Memory, times its quiet size, at most {report['memory_target']:g}", ("process", "times"), grown)
    bars = ", ".join(f"{name.replace('_', ' ')} {'met' if met else 'MISSED'}" for name, met in report["bars"].items())
    return [friends, memory, bars]
