"""`symmoe bench serve`, `siege` and `tracing`: measure a service under load, under attack, and keeping traces."""

from __future__ import annotations

import json as encoder
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def serve(
    part: Annotated[
        list[str] | None, typer.Option("--part", help="named, routing, grouping or soak; repeatable; default: all.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Write the report to this file; parts not measured now stay in it.")
    ] = Path("out/bench/serve.json"),
    pool: options.Pool = "tiny",
    against: Annotated[
        str,
        typer.Option("--against", help="With named: compare with ray (ray.serve.llm), vllm (vllm serve), or NAME@URL."),
    ] = "ray",
    url: Annotated[
        str | None, typer.Option("--url", help="Measure this running service of the pool; default: start one.")
    ] = None,
    expert: Annotated[
        str | None, typer.Option("--expert", help="With named: the expert to ask; default: the pool's first.")
    ] = None,
    clients: Annotated[int | None, typer.Option("--clients", min=1, help="Number of concurrent clients.")] = None,
    requests: Annotated[int | None, typer.Option("--requests", min=2, help="Requests in each measurement.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Number of measurements of all sides.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Tokens of an answer, at most.")] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.01, max=1e6, help="With named: rate of random arrivals, in requests per second."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.01, max=1e4, help="With soak: duration in minutes.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Put load on the service: one expert against another server, latency of routing, gain of grouping, a soak test."""
    from symmoe.bench.service import Wanted, measure

    from .render import narrating, show_measured, write_report

    parts = _parts(part)
    wanted = Wanted(
        pool, parts, against, url, expert, clients, requests, rounds, max_tokens, rate, minutes, seed
    )  # fmt: skip
    before = encoder.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    with narrating("measuring") as tell:
        report = measure(wanted, tell, lambda measured: write_report(before | measured, out))
    show_measured(report, out, json, lambda report: (_TABLES[name](found) for name, found in report.items()))


def _parts(chosen: list[str] | None) -> tuple[str, ...]:
    from symmoe.bench.service import PARTS
    from symmoe.errors import RequestError

    unknown = [name for name in chosen or () if name not in PARTS]
    if unknown:
        raise RequestError(f"--part {unknown[0]}: the parts are {', '.join(PARTS)}", code="unknown_part")
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
    title = f"Latency added by routing, {_verdict(found)}: {targets['p50']:g} ms at p50, {targets['p99']:g} ms at p99"
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


def siege(
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes", min=0.5, max=1e4, help="Duration in minutes, a third of it without attacks; 60 for a full run."
        ),
    ] = 10.0,
    out: options.Report = Path("out/bench/siege.json"),
    pool: options.Pool = "tiny",
    clients: Annotated[int, typer.Option("--clients", min=1, help="Number of concurrent friendly clients.")] = 10,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Lines of the friendly batch.")] = 200,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure friendly clients and a batch beside one hostile key. Exit code 1: the key harms them too much."""
    from symmoe.bench.siege import SiegeLoad, measure_siege
    from symmoe.config import read_pool

    from .render import end_measuring, narrating

    with narrating("besieging") as tell:
        report = measure_siege(read_pool(pool), pool, SiegeLoad(minutes, clients, lines, seed=seed), tell)
    end_measuring(report, out, json, _siege_tables)


def _siege_tables(report: dict[str, Any]) -> list[Any]:
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


def tracing(
    out: options.Report = Path("out/bench/tracing.json"),
    pool: options.Pool = "tiny",
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="Blocks of six rounds: each policy twice.")] = 12,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests in a round.")] = 400,
    traces: Annotated[int, typer.Option("--traces", min=1, help="Number of traces to search.")] = 10_000,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare a service that keeps no traces, metadata, and traces with texts, and time searches. Exit code 1: a bar is
    missed. No model runs: the pool's experts echo.
    """
    from symmoe.bench.tracing import TracingLoad, measure_tracing
    from symmoe.config import read_pool

    from .render import end_measuring, narrating

    with narrating("measuring") as tell:
        report = measure_tracing(read_pool(pool), TracingLoad(blocks, requests, traces, seed), tell)
    end_measuring(report, out, json, _tracing_tables)


def _tracing_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    def ratio(policy: str, name: str) -> str:
        times = report["times_off"].get(policy, {}).get(name)
        return "{:.3f} ({:.3f} to {:.3f})".format(times["median"], *times["ci95"]) if times else "1"

    rows = [
        (
            policy,
            f"{row['requests_per_second']:.0f}",
            ratio(policy, "requests_per_second"),
            f"{row['cpu_ms']:.2f}",
            ratio(policy, "cpu_ms"),
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
