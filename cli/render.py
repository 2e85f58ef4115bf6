"""All output of the command line. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from symmoe.errors import SymmoeError
    from symmoe.pipeline import Watch
    from symmoe.rows.files import Meter
    from symmoe.types import Plan

_LEAST = 5
"""Characters that a column which may be broken needs at least."""


def show_json(document: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_report(report: Any, out: Path) -> None:
    """Write a report as JSON, creating the directory if needed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def show_measured(report: Any, out: Path, as_json: bool, parts: Callable[[Any], Iterable[Any]]) -> None:
    """Show a report, and that it is in `out`, as JSON or as `parts`. Raises `typer.Exit(1)` if its `met` is False."""
    import typer

    if as_json:
        show_json(report)
    else:
        show(*parts(report), f"report in {out}")
    if report.get("met") is False:
        raise typer.Exit(1)


def end_measuring(report: Any, out: Path, as_json: bool, parts: Callable[[Any], Iterable[Any]]) -> None:
    """Write a report to `out`, then `show_measured`."""
    write_report(report, out)
    show_measured(report, out, as_json, parts)


def show(*parts: Any) -> None:
    """Print texts or tables."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    for part in parts:
        console.print(part, highlight=False, markup=False)


def show_result(as_json: bool, document: Any, *parts: Any) -> None:
    """Print what came of a command: a document as JSON, or texts and tables."""
    if as_json:
        show_json(document)
    else:
        show(*parts)


def coloured(words: str, style: str) -> Text:
    """Text in a style of rich. Plain strings are shown as they are: brackets in them are not markup."""
    from rich.text import Text

    return Text(words, style=style)


def tell(words: str) -> None:
    """Write a line to stderr, beside the result."""
    sys.stderr.write(words + "\n")


def show_error(error: SymmoeError, as_json: bool) -> None:
    """Show an error on stderr and its hint on a second line; with `as_json`, both as one document on stdout."""
    if as_json:
        show_json({"error": {"type": type(error).__name__, "message": str(error), "hint": error.hint}})
        return
    tell(f"error: {error}")
    if error.hint:
        tell(f" hint: {error.hint}")


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    right: Sequence[int] = (),
    whole: Sequence[int] = (),
) -> Table:
    """A table; of the columns, by index, those in `right` are aligned to the right.

    Those in `whole` keep their width, if all of them fit the terminal together; otherwise they are broken, and not cut.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_justify="left", title_style="bold")
    fits = _fits([(column, *(str(row[number]) for row in rows)) for number, column in enumerate(columns)], whole)
    for number, column in enumerate(columns):
        drawn.add_column(
            column,
            justify="right" if number in right else "left",
            no_wrap=fits and number in whole,
            overflow="fold" if number in whole else "ellipsis",
        )
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return drawn


def _fits(cells: Sequence[Sequence[str]], whole: Sequence[int]) -> bool:
    """Whether a table with these cells, by column, has room for all of `whole` and a little for the others."""
    from shutil import get_terminal_size

    from rich.cells import cell_len

    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n")) if number in whole else _LEAST
        for number, column in enumerate(cells)
    ]
    return sum(widths) + 3 * len(widths) + 1 <= get_terminal_size().columns


def points(difference: dict[str, Any] | None, digits: int = 2) -> str:
    """A difference in points with its 95 % interval, as text; empty for None."""
    values = (difference["points"], *difference["ci95"]) if difference else ()
    return "{} ({} to {})".format(*(f"{value:+.{digits}f}" for value in values)) if values else ""


def in_lines(name: str, width: int) -> str:
    """A name in lines of at most `width`, broken after a slash where it can be."""
    import re

    return "\n".join(re.findall(rf".{{1,{width}}}$|.{{0,{width - 1}}}/|.{{{width}}}", name))


def percent(fraction: float) -> str:
    """A fraction as percent, without the sign."""
    return f"{100 * fraction:.1f}"


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """A table of seconds by stage, with the sum last."""
    rows = [(stage, f"{spent:.2f}") for stage, spent in seconds.items()]
    return table("Seconds by stage", ("stage", "s"), [*rows, ("sum", f"{sum(seconds.values()):.2f}")], right=(1,))


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner with `what` while the block runs."""
    from rich.console import Console

    with _terminal() as terminal, Console(file=terminal).status(what):
        yield


@contextmanager
def narrating(what: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with `what` while the block runs; call what is yielded with the current step."""
    from rich.console import Console

    with _terminal() as terminal, Console(file=terminal).status(what) as status:
        yield lambda now: status.update(f"{what}: {now}")


@contextmanager
def watching(what: str) -> Iterator[Watch]:
    """Show a progress bar over a plan's calls, with the expert that runs and how it was loaded."""
    from symmoe.pipeline import Watch

    with _progress() as progress:
        bar = progress.add_task(what, total=None)
        yield Watch(
            planned=lambda plan: progress.update(bar, total=_new_total(progress.tasks[bar].total, plan)),
            loaded=lambda load: progress.update(
                bar, description=f"{what}: {load.expert} ({load.lane}, {load.seconds:.1f} s)"
            ),
            candidates=lambda candidates: progress.advance(bar),
        )


@contextmanager
def following(words: Callable[[Any], str]) -> Iterator[tuple[Watch, Callable[[Any], None]]]:
    """Show the progress of a job in one line. The second value yielded takes what `words` turns into that line."""
    from rich.console import Console

    from symmoe.pipeline import Watch

    with _terminal() as terminal, Console(file=terminal).status("starting") as status:
        yield (
            Watch(loaded=lambda load: status.update(f"{load.expert} is ready ({load.lane}, {load.seconds:.1f} s)")),
            lambda standing: status.update(words(standing)),
        )


def _new_total(total: float | None, plan: Plan) -> float:
    return (total or 0) + sum(len(step.calls) for step in plan.steps)


@contextmanager
def stepping(what: str, total: int) -> Iterator[Any]:
    """Show a progress bar over `total` steps; call what is yielded with the step reached and a note."""
    with _progress() as progress:
        bar = progress.add_task(what, total=total)
        yield lambda step, note: progress.update(bar, completed=step, description=f"{what}: {note}")


@contextmanager
def counting(what: str, meter: Meter) -> Iterator[Callable[[int], None]]:
    """Show a progress bar over the bytes of files that are read; call what is yielded with the rows read so far."""
    with _progress() as progress:
        megabytes = None if meter.total is None else max(1, meter.total // 1_000_000)
        bar = progress.add_task(what, total=megabytes)

        def tell(rows: int) -> None:
            done = min(meter.done, meter.total or meter.done) // 1_000_000
            progress.update(bar, completed=done, description=f"{what}: {rows:,}, MB")

        yield tell


@contextmanager
def carrying(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar in MB that appears with the first call of what is yielded: a label, bytes done, bytes in all."""
    with ExitStack() as stack:
        shown: list[tuple[Progress, Any]] = []

        def tell(doing: str, done: int, whole: int) -> None:
            if not shown:
                progress = stack.enter_context(_progress())
                shown.append((progress, progress.add_task(what, total=None)))
            progress, bar = shown[0]
            progress.update(bar, description=f"{doing}, MB", completed=done // 1_000_000, total=whole // 1_000_000)

        yield tell


@contextmanager
def live(parts: Sequence[Any]) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Show texts and tables that stay in place; call what is yielded with their new values."""
    from rich.console import Group
    from rich.live import Live

    with Live(Group(*parts), screen=True, auto_refresh=False) as shown:
        yield lambda parts: shown.update(Group(*parts), refresh=True)


def _terminal() -> TextIO:
    """A copy of stderr, which stays the terminal while an engine's output is redirected to a log."""
    return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress display on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description}")
    columns = (SpinnerColumn(), words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _terminal() as terminal,
        Progress(*columns, console=Console(file=terminal), refresh_per_second=4) as progress,
    ):
        yield progress
