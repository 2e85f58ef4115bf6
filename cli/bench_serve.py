"""`symmoe bench serve`: the service as its clients see it."""

from __future__ import annotations

import json as encoder
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def serve(
    part: Annotated[
        list[str] | None, typer.Option("--part", help="named, routing, grouping or soak; may be repeated; else all.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the report goes; parts that were not measured stay in it.")
    ] = Path("out/bench/serve.json"),
    pool: options.Pool = "tiny",
    against: Annotated[
        str, typer.Option("--against", help="With named: ray (ray.serve.llm), vllm (vllm serve), or NAME@URL.")
    ] = "ray",
    url: Annotated[str | None, typer.Option("--url", help="A service of this pool that runs already.")] = None,
    expert: Annotated[
        str | None, typer.Option("--expert", help="With named: who is asked; else the pool's first.")
    ] = None,
    clients: Annotated[int | None, typer.Option("--clients", min=1, help="Clients at once.")] = None,
    requests: Annotated[int | None, typer.Option("--requests", min=2, help="Requests of each measurement.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Times that all sides are measured.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Tokens of an answer at most.")] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.01, help="With named: requests a second that arrive at random.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="With soak: how long it lasts.")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Put load on the service: one expert against ray.serve.llm, what routing adds, what grouping gains, a soak."""
    from symmoe.bench.service import Wanted, measure

    from .render import narrating, show, show_json, write_report

    parts = _parts(part)
    wanted = Wanted(
        pool, parts, against, url, expert, clients, requests, rounds, max_tokens, rate, minutes, seed
    )  # fmt: skip
    before = encoder.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    with narrating("measuring") as tell:
        report = measure(wanted, tell, lambda measured: write_report(before | measured, out))
    if json:
        show_json(report)
        return
    show(*(_TABLES[name](found) for name, found in report.items()), f"report in {out}")


def _parts(chosen: list[str] | None) -> tuple[str, ...]:
    from symmoe.bench.service import PARTS
    from symmoe.errors import RequestError

    unknown = [name for name in chosen or () if name not in PARTS]
    if unknown:
        raise RequestError(f"--part {unknown[0]}: there are {', '.join(PARTS)}", code="unknown_part")
    return tuple(name for name in PARTS if name in (chosen or PARTS))


def _named(found: dict[str, Any]) -> Any:
    from .render import table

    rows = []
    for mode, row in found["modes"].items():
        for side in ("symmoe", found["against"]):
            figures = (f"{row[side]['requests_per_second']:.2f}", f"{row[side]['tokens_per_second']:.0f}")
            times = (_pair(row[side]["latency_ms"]), _pair(row[side]["first_token_ms"]))
            ratio = f"{row['ratio']:.3f}" if side == "symmoe" else ""
            rows.append((mode.replace("_", ", "), side, *figures, *times, ratio))
    columns = ("load", "server", "requests/s", "tokens/s", "latency p50, p99 ms", "first token p50, p99 ms", "ratio")
    title = f"{found['expert']}, {found['clients']} clients, {_verdict(found)}: at least {found['target']:g} times"
    return table(title, columns, rows, right=range(2, 7))


def _routing(found: dict[str, Any]) -> Any:
    from .render import table

    rows = [
        (clients, *(_pair(row[name]) for name in ("named_ms", "routed_ms", "added_ms", "paired_ms", "route_ms")))
        for clients, row in found["clients"].items()
    ]
    targets = found["targets"]
    title = f"What routing adds, {_verdict(found)}: {targets['p50']:g} ms at p50, {targets['p99']:g} ms at p99"
    columns = ("clients", "by name p50, p99 ms", "routed", "added", "in pairs", "the service says")
    return table(title, columns, rows, right=range(6))


def _grouping(found: dict[str, Any]) -> Any:
    from .render import table

    rows = [
        (
            policy.replace("_", " "),
            f"{row['requests_per_second']:.2f}",
            f"{row['longest_wait'] or 0:.1f}",
            _pair(row["latency_ms"]),
            f"{found['times'].get(policy, 1):.2f}",
        )
        for policy, row in found["policies"].items()
    ]
    title = f"{found['experts']} experts, {found['clients']} clients, {_verdict(found)}: {found['target']:g} times"
    columns = ("policy", "answers/s", "longest wait s", "latency p50, p99 ms", "ours to it")
    return table(title, columns, rows, right=range(1, 5))


def _soak(found: dict[str, Any]) -> Any:
    from .render import table

    rows = [
        ("responses", ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items())),
        ("answers/s", f"{found['requests_per_second']:.2f}"),
        ("latency p50, p99 ms", _pair(found["latency_ms"])),
        ("longest wait s, and its bound", f"{found['longest_wait']}, {found['longest_wait_bound']:g}"),
        ("resident memory MiB, growth %", f"{found['memory']['mib']:.0f}, {found['memory']['growth_percent']:+.2f}"),
    ]
    title = f"{found['clients']} clients for {found['minutes']:g} minutes, {_verdict(found)}"
    return table(title, ("what", "measured"), rows, right=(1,))


def _verdict(found: dict[str, Any]) -> str:
    return "target met" if found["met"] else "target MISSED"


def _pair(figures: dict[str, float] | None) -> str:
    return ", ".join(f"{value:.0f}" if value > 100 else f"{value:.1f}" for value in (figures or {}).values())


_TABLES = {"named": _named, "routing": _routing, "grouping": _grouping, "soak": _soak}
