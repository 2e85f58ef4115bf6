"""`symmoe bench tracing`: what keeping traces costs a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def tracing(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/tracing.json"),
    pool: options.Pool = "tiny",
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="Of six rounds: each policy twice.")] = 12,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Of one round.")] = 400,
    traces: Annotated[int, typer.Option("--traces", min=1, help="Among which is searched.")] = 10_000,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare a service that keeps no traces, traces, and traces with words; search among many. Exit code 1 where a bar
    is missed. No model runs: the pool's experts echo.
    """
    from symmoe.bench.tracing import TracingLoad, measure_tracing
    from symmoe.config import read_pool

    from .render import narrating, show, show_json, write_report

    with narrating("measuring") as tell:
        report = measure_tracing(read_pool(pool), TracingLoad(blocks, requests, traces, seed), tell)
    write_report(report, out)
    if json:
        show_json(report)
    else:
        show(*_tables(report), f"report in {out}")
    if not report["met"]:
        raise typer.Exit(1)


def _tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    def told(policy: str, name: str) -> str:
        times = report["times_off"].get(policy, {}).get(name)
        return "{:.3f} ({:.3f} to {:.3f})".format(times["median"], *times["ci95"]) if times else "1"

    rows = [
        (
            policy,
            f"{row['requests_per_second']:.0f}",
            told(policy, "requests_per_second"),
            f"{row['cpu_ms']:.2f}",
            told(policy, "cpu_ms"),
        )
        for policy, row in report["median"].items()
    ]
    searches = [(name, f"{row['p50']:.0f}", f"{row['max']:.0f}") for name, row in report["search_ms"].items()]
    bars = [(name, bar["measured"], bar["bar"], "yes" if bar["met"] else "NO") for name, bar in report["bars"].items()]
    title = f"{report['blocks']} blocks of six rounds of {report['requests_per_round']} requests, medians"
    columns = ("traces", "requests/s", "times off (95 %)", "CPU ms each", "times off (95 %)")
    return [
        table(title, columns, rows, right=range(1, 5)),
        table(f"Searches among {report['traces']} traces", ("what", "p50 ms", "slowest ms"), searches, right=(1, 2)),
        table("Bars", ("what", "measured", "at most", "met"), bars, right=(1, 2)),
    ]
