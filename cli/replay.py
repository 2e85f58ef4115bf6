"""`symmoe replay`: what a policy would have answered and cost, by recorded answers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.config import Pool
    from symmoe.replaying import Setting

RECRUITERS = ("symmoe", "published", "published-code")
SCORERS = ("verifier", "records")


def replay(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="A folder of recorded answers.")],
    pool: Annotated[
        str | None, typer.Option("--pool", help="The pool whose experts answered; default: RECORDS/pool.yaml.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="EXPERT", help="Never ask this expert; repeatable.")
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", min=1, max=64, help="At most so many experts for a question; repeatable.")
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option("--budget", min=1, max=1e9, help="Expected tokens a question, at most; repeatable."),
    ] = None,
    recruiter: Annotated[
        list[str] | None, typer.Option("--recruiter", help=f"{', '.join(RECRUITERS)}; repeatable.")
    ] = None,
    quality: Annotated[
        list[float] | None,
        typer.Option("--quality", min=0, max=1, help="Stop at this probability, besides asking all k; repeatable."),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option("--scorer", help=f"What weights the answers: {' or '.join(SCORERS)}; repeatable."),
    ] = None,
    learn: Annotated[
        float | None,
        typer.Option(
            "--learn", min=0.01, max=0.99, help="Make profiles from this share of the questions, replay the rest."
        ),
    ] = None,
    newcomer: Annotated[
        list[str] | None,
        typer.Option("--newcomer", metavar="EXPERT", help="With --learn: what a late joiner loses; repeatable."),
    ] = None,
    questions: Annotated[
        list[int] | None, typer.Option("--questions", min=1, help="Questions asked of a newcomer; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the report here, and a plot beside it.")] = Path(
        "out/replay.json"
    ),
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare settings on recorded questions, without running a model.

    The report has accuracy where answers are known, agreement, calls, tokens and cost, with 95 % intervals. Without
    options it compares one expert, the pool's k with and without its quality, and the published recruiting with a vote.
    """
    from symmoe.config import read_pool
    from symmoe.errors import RequestError
    from symmoe.records.files import read_records
    from symmoe.replaying import Lessons, Replay, Setting, compare, onboarding, plot

    from .render import end_measuring, narrating, show_measured, write_report

    unknown = sorted(set(recruiter or ()) - set(RECRUITERS))
    if unknown:
        raise RequestError(
            f"no recruiter is called {unknown[0]!r}",
            code="unknown_recruiter",
            hint=f"there are: {', '.join(RECRUITERS)}",
        )
    if unknown_scorers := sorted(set(scorer or ()) - set(SCORERS)):
        raise RequestError(
            f"no scorer is called {unknown_scorers[0]!r}",
            code="unknown_scorer",
            hint=f"there are: {', '.join(SCORERS)}",
        )
    with narrating("replaying") as tell:
        tell("reading records")
        recorded = read_records(records)
        config = read_pool(pool or str(records / "pool.yaml"))
        settings = _settings(config, k, budget, recruiter, quality, scorer)
        if newcomer:
            counts, most = questions or [5, 50], settings[0] if k else Setting(k=config.routing.k)
            first, rest = recorded.divided(learn or 0.5, seed)
            for name in newcomer:
                config.expert(name)
            report = onboarding(config, Lessons(config, first), rest, newcomer, counts, most, seed, tell)
            end_measuring(report, out, json, lambda report: [_newcomers(report)])
            return
        profiles = None
        if learn is not None:
            tell("making profiles")
            first, recorded = recorded.divided(learn, seed)
            profiles = Lessons(config, first).profiles(seed)
        report = compare(Replay(config, recorded, without or (), profiles), settings, seed, tell)
    write_report(report, out)
    picture = out.with_suffix(".png")
    plot(report, picture)
    show_measured(report, out, json, lambda report: [*_tables(report), f"plot in {picture}"])


def _settings(
    pool: Pool,
    k: list[int] | None,
    budget: list[float] | None,
    recruiter: list[str] | None,
    quality: list[float] | None,
    scorer: list[str] | None,
) -> list[Setting]:
    """The settings to compare. Only symmoe's recruiter, which estimates accuracies, takes `quality` and a verifier."""
    from symmoe.replaying import Setting

    most = pool.routing.k
    if not (k or budget or recruiter or quality or scorer):
        dial = Setting(k=most, quality=pool.aggregation.quality)
        return list(dict.fromkeys([Setting(k=1), dial, Setting(k=most), Setting("published", most)]))
    budgets: list[float | None] = [*budget] if budget else [None]
    verified = [name == SCORERS[0] for name in scorer or SCORERS[:1]]
    chosen = product(recruiter or RECRUITERS[:1], k or [most], budgets, [None, *(quality or ())], verified)
    return [
        Setting(*each) for each in chosen if each[0] == RECRUITERS[0] or (each[3] is None and each[4] == verified[0])
    ]


def _tables(report: dict[str, Any]) -> list[Any]:
    from .render import points, table

    settings = report["settings"]
    priced = any(row["cost"] is not None for row in settings.values())
    rows = []
    for name, row in settings.items():
        cost = "" if row["cost"] is None else f"{row['cost']:.4g}"
        lead = report["over_best_single"].get(name)
        rows.append(
            (
                name.replace(", ", "\n"),
                _with_interval(row["accuracy"], row["ci95"]),
                points(lead, 1),
                _figure(row["promised"]),
                _figure(row["agreement"]),
                f"{row['calls_per_question']:.2f}",
                f"{row['completion_tokens'] / 1000:.1f}",
                *([cost] if priced else []),
            )
        )
    columns = ["setting", "right % (95 %)", "over best single", "promised %", "agree %", "calls", "1000 tokens"]
    columns += ["cost"] if priced else []
    title = f"{report['questions']} questions ({report['known']} with known answers), {len(report['experts'])} experts"
    tables = [table(title, columns, rows, right=range(1, 8), whole=(0,))]
    if report["references"]:
        reference_rows = [
            (name.replace("_", " "), _with_interval(row["accuracy"], row["ci95"]), row["calls"])
            for name, row in report["references"].items()
        ]
        tables.append(table("For comparison", ("way", "right %", "calls"), reference_rows, right=(1, 2)))
    notes = []
    if errors := [f"{name}: {row['ece']:.1f}" for name, row in settings.items() if row["ece"] is not None]:
        notes.append(f"expected calibration error of what is promised, in points: {'; '.join(errors)}")
    if any(row["tokens_estimated"] for row in settings.values()):
        notes.append("tokens that are not on record are estimated: a quarter of the characters")
    if unrecorded := sum(row["unrecorded"] for row in settings.values()):
        notes.append(f"{unrecorded} calls have no recorded answer and did not vote")
    return [*tables, *notes]


def _newcomers(report: dict[str, Any]) -> Any:
    from .render import points, table

    full = report["full"]
    rows = [("", "full records", _with_interval(full["accuracy"], full["ci95"]), "")]
    for newcomer, ways in report["newcomers"].items():
        for way, row in ways.items():
            rows.append((newcomer, way, _with_interval(row["accuracy"], row["ci95"]), points(row["under_full"], 1)))
    title = f"Newcomers: {report['questions']} questions, k = {report['setting']['k']}"
    return table(title, ("newcomer", "joined with", "right %", "points to full records (95 %)"), rows, (2, 3), (0,))


def _with_interval(percent: float | None, bounds: list[float] | None) -> str:
    return "" if percent is None or bounds is None else f"{percent:.1f} ({bounds[0]:.1f} to {bounds[1]:.1f})"


def _figure(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.1f}"
