"""`symmoe bench`: claims, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import bench_gate, bench_gather, bench_loading, bench_plan, bench_quality, bench_serve, bench_siege, options

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

    from symmoe.bench.replay import plot_replay, read_sets
    from symmoe.bench.replay import replay as compare
    from symmoe.build import build_embedder
    from symmoe.config import read_pool

    from .render import show, show_json, working

    embedder = build_embedder(read_pool(pool))
    fitted_on = read_sets(train)
    judged_on = read_sets(test, fitted_on[0].models)
    with working("embedding, fitting, replaying"):
        report = compare(fitted_on, judged_on, embedder, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(encoder.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot = out.with_suffix(".plot.png" if out.suffix == ".png" else ".png")
    plot_replay(report, plot)
    if json:
        show_json(report)
        return
    show(*_tables(report), f"report in {out}, plot in {plot}")


@app.command("routing")
def routing(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("out/bench/routing.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it works.")] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure how fast questions are tagged and recruited, and in how much memory."""
    import json as encoder

    from symmoe.bench.routing import measure
    from symmoe.build import build_embedder
    from symmoe.config import read_pool

    from .render import show, show_json, table, working

    pool = read_pool("starter")
    static = pool.routing.model_copy(update={"embedder": f"static:{pool.routing.embedder}"})
    embedders = {
        "transformer": build_embedder(pool),
        "static": build_embedder(pool.model_copy(update={"routing": static})),
    }
    with working("measuring"):
        report = measure(embedders, seed, quick)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(encoder.dumps(report, indent=2) + "\n", encoding="utf-8")
    if json:
        show_json(report)
        return
    batch, memory, authors = report["batch"], report["memory"], report["authors_way"]
    rows = [
        (f"{batch['questions']} questions, {batch['skills']} skills, {batch['experts']} experts, vectors given",
         f"{batch['seconds']:.2f} s"),
        *((f"one question, {name} embedder, p50 (p95)", f"{s['p50_ms']:.2f} ({s['p95_ms']:.2f}) ms")
          for name, s in report["single"].items()),
        ("one question as the authors' code does it", f"{authors['seconds_per_question']:.2f} s"),
        *((f"times faster than that, {name} embedder", f"{times:.0f}")
          for name, times in report["times_the_authors_way"].items()),
        (f"peak memory, {memory['skills']} skills, {memory['experts']} experts", f"{memory['peak_mib']:.0f} MiB"),
    ]  # fmt: skip
    show(table("Tagging and recruiting", ("what", "measured"), rows, right=(1,)), f"report in {out}")


@app.command("recruiting")
def recruiting(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path(
        "out/bench/recruiting.json"
    ),
    pool: options.Pool = "starter",
    suite: Annotated[
        Path | None, typer.Option("--suite", help="Questions; default: held-out ones of each family.")
    ] = None,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Questions of each family.")] = 24,
    k: options.K = None,
    seed: options.Seed = 1,
    json: options.Json = False,
) -> None:
    """Answer one suite under several ways of recruiting: accuracy, calls, tokens, and what asking fewer costs."""
    import json as encoder

    from symmoe.bench.routing import contest
    from symmoe.build import Assembly, check_weights
    from symmoe.config import read_pool
    from symmoe.questions.families import FAMILIES
    from symmoe.questions.suites import mixed_suite, read_suite

    from .render import percent, show, show_json, table, watching

    described = read_pool(pool)
    check_weights(described)
    questions = read_suite(suite) if suite else mixed_suite(list(FAMILIES), per_family, "test", seed)
    with watching("asking") as watch:
        report = contest(Assembly(described), questions, k or described.routing.k, seed, watch)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(encoder.dumps(report, indent=2) + "\n", encoding="utf-8")
    if json:
        show_json(report)
        return
    rows = [
        (
            name,
            percent(row["accuracy"]),
            "{:+.2f} ({:+.2f} to {:+.2f})".format(row["over_fixed_k"]["points"], *row["over_fixed_k"]["ci95"]),
            row["calls"],
            percent(row["calls_saved"]),
            row["completion_tokens"],
        )
        for name, row in report["ways"].items()
    ]
    columns = ("recruiter", "right %", "over fixed k, points (95 %)", "calls", "saved %", "tokens")
    show(table(f"{len(questions)} questions, k = {report['k']}", columns, rows, right=range(1, 6)), f"report in {out}")


def _tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    sets = {name: facts["seen"] for name, facts in report["sets"].items()}
    routers = report["routers"]
    earned = [
        (each if seen else f"{each} (unseen)", *(f"{row['sets'][each]:.1f}" for row in routers.values()))
        for each, seen in sets.items()
    ]
    means = [
        (name, f"{row['mean']:.2f}", "{:.2f}–{:.2f}".format(*row["ci95"]), *_over(row)) for name, row in routers.items()
    ]
    columns = ("router", "mean", "95 %", "over best single", "over clusters")
    return [
        table("Percent earned", ("set", *(name.replace("_", " ") for name in routers)), earned, right=range(1, 20)),
        table("Mean over sets, and paired differences in points (95 %)", columns, means, right=(1, 2, 3, 4)),
    ]


def _over(row: dict[str, Any]) -> list[str]:
    pairs = (row["over_best_single"], row["over_clusters"])
    return ["{:+.2f} ({:+.2f} to {:+.2f})".format(pair["points"], *pair["ci95"]) for pair in pairs]


app.command("plan")(bench_plan.plan)
app.command("swap")(bench_loading.swap)
app.command("batch")(bench_loading.batch)
app.command("gather")(bench_gather.gather)
app.command("gate")(bench_gate.gate)
app.command("quality")(bench_quality.quality)
app.command("serve")(bench_serve.serve)
app.command("siege")(bench_siege.siege)
