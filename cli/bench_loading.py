"""`symmoe bench swap` and `symmoe bench batch`: what switching experts costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

Report = Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")]


def swap(
    out: Report = Path("out/bench/swap.json"),
    pool: options.Pool = "starter",
    swaps: Annotated[int, typer.Option("--swaps", min=20, help="Switches in a row.")] = 200,
    rebuilds: Annotated[int, typer.Option("--rebuilds", min=1, help="New engines to start.")] = 3,
    json: options.Json = False,
) -> None:
    """Time switches of expert in one engine, against a plain copy of the same bytes and against a new engine."""
    from symmoe.bench.loading import measure_swaps
    from symmoe.config import read_pool

    from .render import narrating, show, show_json, table, write_report

    with narrating("measuring") as tell:
        report = measure_swaps(read_pool(pool), swaps, rebuilds, tell)
    write_report(report, out)
    if json:
        show_json(report)
        return
    rows: list[tuple[Any, ...]] = [
        (WAYS[way], f"{1000 * report['seconds'][way]:.1f}", report["to_copy"][way], report["rebuild_to"][way])
        for way in WAYS
    ]
    rows.append(("a plain copy of the bytes", f"{1000 * report['seconds']['copy']:.1f}", 1, ""))
    rows.append(("a new engine", f"{1000 * report['seconds']['rebuild']:.0f}", "", 1))
    grown = ", ".join(f"{100 * memory['growth']:+.1f} %" for memory in report["memory"].values())
    columns = ("switch", "ms", "times a copy", "times faster than a new engine")
    title = f"{report['bytes'] / 1e6:.0f} MB a model"
    show(
        table(title, columns, rows, right=(1, 2, 3)),
        f"memory after {swaps} switches (kernels made anew, kernels held): {grown}",
        f"report in {out}",
    )


def batch(
    out: Report = Path("out/bench/batch.json"),
    pool: options.Pool = "starter",
    experts: Annotated[int, typer.Option("--experts", min=2, help="Experts; copies fill up.")] = 16,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Questions of each family.")] = 24,
    k: Annotated[int, typer.Option("--k", min=1, help="Experts asked for each question.")] = 3,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Times that both sides are measured.")] = 3,
    processes: Annotated[
        bool, typer.Option("--processes", help="Also build engines as vLLM does by default, each in a process.")
    ] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Time one batch over many experts against no switching at all, and against an engine for every expert."""
    from symmoe.bench.loading import Workload, measure_batch
    from symmoe.config import read_pool

    from .render import narrating, show, show_json, table, write_report

    with narrating("measuring") as tell:
        report = measure_batch(read_pool(pool), Workload(experts, per_family, k, seed), rounds, processes, tell)
    write_report(report, out)
    if json:
        show_json(report)
        return
    ours = report["seconds"]["ours"]
    rows = [(name, f"{seconds:.1f}", f"{seconds / ours:.2f}") for name, seconds in report["seconds"].items()]
    title = f"{report['calls']} calls to {report['experts']} experts"
    equal = ", ".join(f"{name}: {same['equal']} of {same['of']}" for name, same in report["identical"].items())
    show(table(title, ("way", "s", "times ours"), rows, right=(1, 2)), f"equal answers: {equal}", f"report in {out}")


WAYS = {
    "first": "another model, kernels made",
    "again": "another model, kernels held",
    "adapter_first": "an adapter, kernels made",
    "adapter_again": "an adapter, kernels held",
}
