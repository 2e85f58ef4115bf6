"""`symmoe demo`: answer questions with known answers, and compare symmoe with its experts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Write report, answers, traces and plot to this folder.")
    ] = Path("out/demo"),
    pool: options.Pool = "starter",
    per_family: Annotated[int, typer.Option("--per-family", min=1, max=200, help="Questions of each family.")] = 6,
    k: options.K = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Answer mixed questions with the pool, then ask every expert every question, and compare accuracies."""

    from symmoe.batch.lines import GoodLine
    from symmoe.batch.output import TraceWriter, open_output
    from symmoe.bench.demo import demo_report, plot_report
    from symmoe.build import Assembly
    from symmoe.config import TINY, read_pool
    from symmoe.pipeline import answer
    from symmoe.policy import AUTO, policy_for
    from symmoe.profiles.marking import as_query, run_matrix
    from symmoe.questions.suites import general_suite, mixed_suite, write_suite
    from symmoe.types import Trace

    from .render import show_result, watching, working, write_report

    config = read_pool(pool)
    options.fetch_and_verify(config)
    questions = (mixed_suite if config.name == TINY else general_suite)(per_family, "test", seed)
    queries = [as_query(question, config.sampling) for question in questions]
    draws = k or config.routing.k
    assembly = Assembly(config)
    with working("starting the engine"):
        engine_start = assembly.loader.start(config.names[0])
    with watching("symmoe") as watch:
        policy = policy_for(config, k=k)
        outcome = answer(assembly.parts(), queries, policy, seed, watch=watch, explain=True)
    traces = [result for result in outcome.results if isinstance(result, Trace)]
    with watching("baselines") as watch:
        matrix = run_matrix(
            assembly.executor,
            config.names,
            assembly.models,
            questions,
            config.sampling,
            watch,
            config.most_tokens,
            [candidate for trace in traces for candidate in trace.candidates],
        )
    settings = {"pool": config.name, "k": draws, "seed": seed, "per_family": per_family}
    report = demo_report(questions, outcome, matrix, engine_start, settings)

    out.mkdir(parents=True, exist_ok=True)
    write_suite(out / "questions.jsonl", questions)
    lines = [GoodLine(number, query.id, AUTO, (query,), policy) for number, query in enumerate(queries, start=1)]
    answers = zip(lines, outcome.results, strict=True)
    answered, evidence = open_output(out / "answers.jsonl", "demo", 0), TraceWriter(out / "traces.jsonl")
    with closing(answered), closing(evidence):
        for line, result in answers:
            answered.write(line, [result])
            evidence.write(line, [result])
    write_report(report, out / "report.json")
    plot_report(report, out / "accuracy.png")
    show_result(json, report, *_tables(report), f"report, answers, traces and plot are in {out}")


def _tables(report: dict[str, Any]) -> list[Any]:
    from .render import percent, seconds_table, table

    contenders = list(report["accuracy"])
    groups = [*report["families"].items(), *report["kinds"].items(), ("all", report["accuracy"])]
    families = [(family, *(percent(row[name]) for name in contenders)) for family, row in groups]
    experts = [
        (
            name,
            row["loads"],
            row["lane"] or "",
            f"{row['swap_seconds']:.2f}",
            row["requests"],
            percent(row["accuracy_alone"]),
        )
        for name, row in report["experts"].items()
    ]
    family_columns = ("family", *(name.replace("_", " ") for name in contenders))
    expert_columns = ("expert", "loads", "lane", "load s", "requests", "alone, all %")
    return [
        table(f"Right answers, % of {report['questions']} questions", family_columns, families, right=(1, 2, 3, 4)),
        table("Experts", expert_columns, experts, right=(1, 3, 4, 5)),
        seconds_table(report["seconds"]),
    ]
