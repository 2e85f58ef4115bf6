"""`symmoe bench`: claims, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

app = typer.Typer(help="Measure what is claimed.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure what is claimed."""


@app.command("replay")
def replay(
    train: Annotated[Path, typer.Option("--train", help="A directory of recorded sets (JSON) to fit routers on.")],
    test: Annotated[Path, typer.Option("--test", help="A directory of recorded sets to judge them on.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/replay.json"),
    pool: options.Pool = "starter",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Judge routers by the recorded scores of real models, without running any. The pool gives the embedder."""
    import json as encoder

    from symmoe.build import build_embedder
    from symmoe.config import read_pool
    from symmoe.evaluation.replay.compare import replay as compare
    from symmoe.evaluation.replay.records import read_sets

    from .render import show, show_json, working

    embedder = build_embedder(read_pool(pool))
    fitted_on = read_sets(train)
    judged_on = read_sets(test, fitted_on[0].models)
    with working("embedding, fitting, replaying"):
        report = compare(fitted_on, judged_on, embedder, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(encoder.dumps(report, indent=2) + "\n", encoding="utf-8")
    if json:
        show_json(report)
        return
    show(_table(report), f"report in {out}")


def _table(report: dict[str, Any]) -> Any:
    from .render import table

    sets = {name: facts["seen"] for name, facts in report["sets"].items()}
    columns = ["router", *(name if seen else f"{name} (unseen)" for name, seen in sets.items()), "mean", "95 %"]
    rows = [
        (
            name,
            *(f"{row['sets'][each]:.2f}" for each in sets),
            f"{row['mean']:.2f}",
            "{:.2f}–{:.2f}".format(*row["ci95"]),
        )
        for name, row in report["routers"].items()
    ]
    return table("Percent earned", columns, rows, right=range(1, len(columns)))
