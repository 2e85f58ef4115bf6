"""`symmoe plan`: show the plan of a batch on several workers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.config import Pool as PoolFile
    from symmoe.preview import Preview
    from symmoe.types import Query

app = typer.Typer(help="Show the plan of a batch before it runs.", no_args_is_help=True)

PER_FAMILY = 24
WIDTH = 60
COLOURS = ("blue", "green", "magenta", "cyan", "yellow", "red", "bright_blue", "bright_green", "bright_magenta")
PICTURES = (".png", ".svg", ".pdf")


@app.callback()
def _group() -> None:
    """Show the plan of a batch before it runs."""


@app.command("show")
def show_plan(
    pool: options.Pool = "starter",
    suite: Annotated[Path | None, typer.Option("--suite", help="Questions with answers (JSON lines).")] = None,
    source: Annotated[
        str | None, typer.Option("--input", help="Questions in any form that `symmoe batch run` takes.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=1024, help="Accelerators that share the plan.")] = 1,
    machines: Annotated[
        int, typer.Option("--machines", min=1, max=1024, help="Machines among which the workers are divided, in turn.")
    ] = 1,
    aggregator: Annotated[
        str | None, typer.Option("--aggregator", help="The expert that aggregates; planned near those it reads.")
    ] = None,
    prefetch: Annotated[
        bool, typer.Option("--prefetch", help="Load the next expert while the current one answers.")
    ] = False,
    k: options.K = None,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also draw the plan to this file: .png, .svg or .pdf.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Recruit and plan, and show which worker runs which expert when. No expert is loaded.

    Without --suite or --input, held-out questions of each family are planned for.
    """
    from symmoe.build import Assembly
    from symmoe.config import read_pool
    from symmoe.errors import RequestError
    from symmoe.planning.grouping import Fleet
    from symmoe.planning.problem import Worker
    from symmoe.preview import plot_timeline, preview, preview_report
    from symmoe.store import open_store

    from .render import show, show_json, tell, working

    config = read_pool(pool)
    if out is not None and out.suffix not in PICTURES:
        raise RequestError(
            f"{out}: pictures cannot be written as {out.suffix!r}", code="bad_option", hint=" ".join(PICTURES)
        )
    if aggregator is not None:
        config.expert(aggregator)
    queries, skipped = _questions(config, suite, source, seed)
    assembly = Assembly(config)
    costs = assembly.costs(open_store())
    seats = tuple(Worker(machine=str(worker % machines)) for worker in range(workers))
    fleet = Fleet(seats, costs.costs(), aggregator)
    with working("recruiting and planning"):
        parts = (assembly.tagger, assembly.recruiter)
        shown = preview(queries, parts, assembly.models, fleet, k or config.routing.k, seed, prefetch)
    guessed = sorted({step.expert for step in shown.plan.steps if not costs.measured(step.expert)})
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        plot_timeline(shown.timeline, workers, out, shown.schedule.bound, shown.schedule.joint)
    if json:
        facts = {"questions": len(queries), "skipped": skipped, "calls": sum(len(s.calls) for s in shown.plan.steps)}
        show_json(facts | preview_report(shown) | {"guessed": guessed, "picture": str(out) if out else None})
        return
    if skipped:
        tell(f"{skipped} lines cannot be asked and are left out; `symmoe batch run` says why")
    if guessed:
        tell(f"costs are guessed, not measured, for: {', '.join(guessed)}")
    show(*_chart(shown), *([f"picture in {out}"] if out else []))


def _questions(pool: PoolFile, suite: Path | None, source: str | None, seed: int) -> tuple[list[Query], int]:
    """The queries to plan for, and how many lines cannot be asked."""
    from symmoe.batch.lines import GoodLine, LineReader
    from symmoe.errors import RequestError
    from symmoe.profiles.marking import as_query
    from symmoe.questions.suites import suite_at

    if suite is not None and source is not None:
        raise RequestError("--suite and --input are both given", code="bad_option", hint="give one of them")
    if source is None:
        questions = suite_at(suite, PER_FAMILY, "test", seed)
        return [as_query(question, pool.sampling) for question in questions], 0
    lines = list(LineReader(pool).read(source))
    good = [line for line in lines if isinstance(line, GoodLine)]
    if not good:
        raise RequestError(f"{source}: no line in it can be asked", code="no_questions")
    return [query for line in good for query in line.queries], len(lines) - len(good)


def _chart(shown: Preview) -> list[Any]:
    """A Gantt chart, a table of the steps as its legend, and a summary."""
    from .render import coloured, table

    spans, found = shown.timeline.spans, shown.schedule
    experts = list(dict.fromkeys(step.expert for step in shown.plan.steps))
    styles = {expert: COLOURS[place % len(COLOURS)] for place, expert in enumerate(experts)}
    rows = [(worker, _bar(shown, worker, styles), f"{seconds:.1f}") for worker, seconds in enumerate(found.seconds)]
    steps = [
        (
            span.worker,
            coloured(span.expert, styles[span.expert]),
            span.requests,
            f"{_loading(shown, span):.1f}",
            f"{span.begin:.1f}",
            f"{span.end:.1f}",
        )
        for span in spans
        if span.kind == "generate"
    ]
    over = f", {100 * (found.makespan / found.bound - 1):.1f} % over the lower bound" if found.bound else ""
    proved = ", which is proved to be the shortest" if found.optimal else ""
    shared = "" if shown.met is None else f"; {100 * shown.met:.0f} % of pairs of experts asked together share a worker"
    summary = f"done after {shown.timeline.makespan:.1f} s{over}{proved}; planned in {shown.planning:.2f} s{shared}"
    return [
        table(f"{len(experts)} experts on {len(found.shares)} workers (░ loading)", ("", "", "s"), rows, (0, 2)),
        table("Steps", ("worker", "expert", "calls", "load s", "begin", "end"), steps, right=(0, 2, 3, 4, 5)),
        *_joint_loads(shown),
        summary,
    ]


def _joint_loads(shown: Preview) -> list[Any]:
    """A table of loads that machines begin together, with the seconds waited and saved; none if there are none."""
    from .render import table

    loads = [
        (
            load.model.partition("@")[0],
            ", ".join(map(str, sorted(load.places))),
            f"{load.begin:.1f}",
            f"{load.waited:.1f}",
            f"{load.saved * len(load.places):.1f}" if load.rates else "?",
        )
        for load in shown.schedule.joint
    ]
    unknown = "" if all(load.rates for load in shown.schedule.joint) else " (?: not measured yet)"
    head = ("model", "workers", "begin", "waited s", "saved s")
    return (
        [table(f"Loads that begin together and read the model once{unknown}", head, loads, right=(2, 3, 4))]
        if loads
        else []
    )


def _loading(shown: Preview, step: Any) -> float:
    """Seconds of the load before a step."""
    spans = shown.timeline.spans
    loads = [s for s in spans if (s.worker, s.expert, s.kind) == (step.worker, step.expert, "load")]
    return sum(load.end - load.begin for load in loads)


def _bar(shown: Preview, worker: int, styles: dict[str, str]) -> Any:
    """One worker's time from left to right; a cell shows what takes most of its time."""
    from .render import coloured

    cell = shown.timeline.makespan / WIDTH or 1.0
    bar = coloured("", "")
    for place in range(WIDTH):
        begin, end = place * cell, (place + 1) * cell
        lasting = [
            (min(s.end, end) - max(s.begin, begin), s.kind == "generate", s.expert)
            for s in shown.timeline.spans
            if s.worker == worker and s.begin < end and s.end > begin
        ]
        _, generating, expert = max(lasting, default=(0.0, False, ""))
        bar.append(("█" if generating else "░") if expert else " ", style=styles.get(expert, ""))
    return bar
