"""`symmoe bench gather`: what grouped loading gains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def gather(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/gather.json"),
    megabytes: Annotated[int, typer.Option("--megabytes", min=1, help="Size of the file, in MiB.")] = 256,
    ranks: Annotated[str, typer.Option("--ranks", help="Processes that load together; several with commas.")] = "2,4",
    throttle: Annotated[
        float, typer.Option("--throttle", min=1, help="What the shared storage gives to all together, in MiB/s.")
    ] = 400.0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Times that each is measured.")] = 3,
    kill: Annotated[
        bool, typer.Option("--kill", help="Also kill one rank half-way and see how the others end.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Time ranks that share the reading of one file against ranks that each read all of it."""
    from symmoe.bench.gathering import measure

    from .render import show, show_json, table, working, write_report

    counts = _counts(ranks)
    with working("measuring"):
        report = measure(megabytes, counts, throttle, repeats, kill)
    write_report(report, out)
    if json:
        show_json(report)
        return
    rows = [_row(count, name, report["ranks"][count][name]) for count in report["ranks"] for name in _STORAGE]
    read = [
        f"{count} ranks read of {megabytes} MiB: {', '.join(map(str, row['throttled']['mib_read_per_rank']))}"
        for count, row in report["ranks"].items()
    ]
    columns = ("ranks", "storage", "alone s", "grouped s", "times", "exact", "plan")
    parts: list[Any] = [table(f"{megabytes} MiB, {report['backend']}", columns, rows, right=(0, 2, 3, 4)), *read]
    if kill:
        parts += [f"rank {report['kill']['killed']} killed:", *map(_ending, report["kill"]["others"])]
    show(*parts, f"report in {out}")


_STORAGE = {"throttled": "throttled", "page_cache": "page cache"}


def _counts(words: str) -> list[int]:
    from symmoe.errors import RequestError

    counts = [int(word) if word.strip().isdecimal() else 0 for word in words.split(",")]
    if min(counts) < 2:
        raise RequestError(f"--ranks {words}: numbers of processes from 2 on, with commas", code="bad_ranks")
    return counts


def _row(count: str, name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    exact = "yes" if row["bit_exact"] else "NO"
    seconds = (f"{row['independent_seconds']:.3f}", f"{row['grouped_seconds']:.3f}")
    return count, _STORAGE[name], *seconds, f"{row['times']:.2f}", exact, row["plan"]["mode"]


def _ending(other: dict[str, Any]) -> str:
    return f"  after {other['seconds']:.2f} s: {other['error']}"
