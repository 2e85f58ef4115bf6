"""`symmoe bench`: measure speed, memory and quality on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import bench_quality, bench_service, options

app = typer.Typer(help="Measure speed, memory and quality on this machine.", no_args_is_help=True)
_SWITCHES = {
    "first": "another model, kernels made",
    "again": "another model, kernels held",
    "adapter_first": "an adapter, kernels made",
    "adapter_again": "an adapter, kernels held",
}
Unlike = Annotated[bool, typer.Option("--unlike", help="Use experts of unlike models, each model with its own engine.")]
OtherModel = Annotated[
    Path | None,
    typer.Option("--model", help="With --unlike: the directory of a further real model; default: one of the pool's."),
]
_STORAGE = {"throttled": "throttled", "page_cache": "page cache"}


@app.command("replay")
def replay(
    train: Annotated[Path, typer.Option("--train", help="A folder of recorded sets (JSON) to fit routers on.")],
    test: Annotated[Path, typer.Option("--test", help="A folder of recorded sets to measure them on.")],
    out: options.Report = Path("out/bench/replay.json"),
    pool: options.Pool = "tiny",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare routers by recorded scores of real models, without running any. The embedder is the pool's."""
    from symmoe.bench.replay import plot_replay, read_sets
    from symmoe.bench.replay import replay as compare
    from symmoe.build import build_kept_embedder
    from symmoe.config import read_pool

    from .render import show_measured, working, write_report

    embedder = build_kept_embedder(read_pool(pool))
    fitted_on = read_sets(train)
    judged_on = read_sets(test, fitted_on[0].models)
    with working("embedding, fitting, replaying"):
        report = compare(fitted_on, judged_on, embedder, seed)
    write_report(report, out)
    plot = _plot_beside(out)
    plot_replay(report, plot)
    show_measured(report, out, json, lambda report: [*_replay_tables(report), f"plot in {plot}"])


@app.command("routing")
def routing(
    out: options.Report = Path("out/bench/routing.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Use small sizes, to try the command.")] = False,
    suite: Annotated[
        list[Path] | None,
        typer.Option("--suite", help="Questions to name skills of (also with `encode`); default: generated ones."),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure the time and memory of tagging and recruiting."""
    from symmoe.bench.routing import measure, measure_naming
    from symmoe.build import build_embedder, pool_taxonomy
    from symmoe.build_embedder import embedder_directory
    from symmoe.config import read_pool
    from symmoe.questions.suites import mixed_suite, read_suite

    from .render import end_measuring, working

    pool = read_pool("tiny")
    static = pool.routing.model_copy(update={"embedder": f"static:{pool.routing.embedder}"})
    embedders = {
        "transformer": build_embedder(pool),
        "static": build_embedder(pool.model_copy(update={"routing": static})),
    }
    asked = [each for path in suite or () for each in read_suite(path)]
    texts = [each.question for each in asked or mixed_suite(1 if quick else 1000, "test", seed)]
    model, taxonomy = embedder_directory(pool.routing.embedder, pool.root), pool_taxonomy(read_pool("starter"))
    with working("measuring"):
        report = {
            **measure(embedders, seed, quick),
            "naming": measure_naming(model, taxonomy, texts, 1 if quick else 3),
        }
    end_measuring(report, out, json, _routing_tables)


def _routing_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    batch, memory, authors = report["batch"], report["memory"], report["authors_way"]
    naming = report["naming"]
    rows = [
        (f"{batch['questions']} questions, {batch['skills']} skills, {batch['experts']} experts, vectors given",
         f"{batch['seconds']:.2f} s"),
        *((f"one question, {name} embedder, p50 (p95)", f"{s['p50_ms']:.2f} ({s['p95_ms']:.2f}) ms")
          for name, s in report["single"].items()),
        ("one question as the authors' code does it", f"{authors['seconds_per_question']:.2f} s"),
        *((f"times faster than that, {name} embedder", f"{times:.0f}")
          for name, times in report["times_the_authors_way"].items()),
        (f"{naming['questions']} questions of {naming['characters']} characters embedded, a second",
         f"{naming['per_second']['ours']:.0f}"),
        ("times faster than encode in 32 bits", f"{naming['times']:.1f}"),
        ("the same first skill", f"{100 * naming['same_first']:.2f} %"),
        (f"peak memory, {memory['skills']} skills, {memory['experts']} experts", f"{memory['peak_mib']:.0f} MiB"),
    ]  # fmt: skip
    return [table("Tagging and recruiting", ("what", "measured"), rows, right=(1,))]


@app.command("recruiting")
def recruiting(
    out: options.Report = Path("out/bench/recruiting.json"),
    pool: options.Pool = "tiny",
    suite: options.HeldOut = None,
    per_family: options.PerFamily = 24,
    k: options.K = None,
    seed: options.Seed = 1,
    json: options.Json = False,
) -> None:
    """Answer one suite with several recruiters, and compare accuracy, calls and tokens."""
    from symmoe.bench.routing import contest
    from symmoe.build import Assembly
    from symmoe.config import read_pool
    from symmoe.questions.suites import suite_at

    from .render import end_measuring, watching

    config = read_pool(pool)
    options.fetch_and_verify(config)
    questions = suite_at(suite, per_family, "test", seed)
    with watching("asking") as watch:
        report = contest(Assembly(config), questions, k or config.routing.k, seed, watch)
    end_measuring(report, out, json, lambda report: [_recruiting_table(report, len(questions))])


def _recruiting_table(report: dict[str, Any], questions: int) -> Any:
    from .render import percent, points, table

    rows = [
        (
            name,
            percent(row["accuracy"]),
            points(row["over_fixed_k"]),
            row["calls"],
            percent(row["calls_saved"]),
            row["completion_tokens"],
        )
        for name, row in report["ways"].items()
    ]
    columns = ("recruiter", "right %", "over fixed k, points (95 %)", "calls", "saved %", "tokens")
    return table(f"{questions} questions, k = {report['k']}", columns, rows, right=range(1, 6))


def _replay_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    sets = {name: facts["seen"] for name, facts in report["sets"].items()}
    routers = report["routers"]
    earned = [
        (each if seen else f"{each}\n(unseen)", *(f"{row['sets'][each]:.1f}" for row in routers.values()))
        for each, seen in sets.items()
    ]
    mean_rows = [
        (number, name, f"{row['mean']:.2f}", "{:.2f}–{:.2f}".format(*row["ci95"]), *_over(row))
        for number, (name, row) in enumerate(routers.items(), 1)
    ]
    columns = ("", "router", "mean", "95 %", "over best single", "over clusters")
    numbers = tuple(str(number) for number in range(1, 1 + len(routers)))
    return [
        table(
            "Percent earned: mean over sets, and paired differences (95 %)", columns, mean_rows, (0, 2, 3, 4, 5), (1,)
        ),
        table("Percent earned on each set, by number of the router", ("set", *numbers), earned, range(1, 20), (0,)),
    ]


def _over(row: dict[str, Any]) -> list[str]:
    from .render import points

    pairs = (row["over_best_single"], row["over_clusters"])
    return [points(pair, 1) for pair in pairs]


@app.command("swap")
def swap(
    out: options.Report = Path("out/bench/swap.json"),
    pool: options.Pool = "tiny",
    swaps: Annotated[int, typer.Option("--swaps", min=20, help="Number of switches.")] = 200,
    rebuilds: Annotated[int, typer.Option("--rebuilds", min=1, help="Number of engines to start.")] = 3,
    unlike: Unlike = False,
    model: OtherModel = None,
    json: options.Json = False,
) -> None:
    """Time switching experts in one engine, against a plain copy of the same bytes and against a new engine.

    With --unlike: between engines of unlike models, of which one is awake; some are killed on the way.
    """
    from symmoe.bench.loading import measure_swaps
    from symmoe.bench.unlike import measure_unlike_swaps
    from symmoe.config import read_pool

    from .render import end_measuring, narrating

    with narrating("measuring") as tell:
        if unlike:
            report = measure_unlike_swaps(read_pool(pool), model, swaps, tell=tell)
        else:
            report = measure_swaps(read_pool(pool), swaps, rebuilds, tell)
    end_measuring(report, out, json, _unlike_swap_tables if unlike else lambda report: _swap_tables(report, swaps))


def _swap_tables(report: dict[str, Any], swaps: int) -> list[Any]:
    from .render import table

    rows: list[tuple[Any, ...]] = [
        (_SWITCHES[way], f"{1000 * report['seconds'][way]:.1f}", report["to_copy"][way], report["rebuild_to"][way])
        for way in _SWITCHES
    ]
    rows.append(("a plain copy of the bytes", f"{1000 * report['seconds']['copy']:.1f}", 1, ""))
    rows.append(("a new engine", f"{1000 * report['seconds']['rebuild']:.0f}", "", 1))
    grown = ", ".join(f"{100 * memory['growth']:+.1f} %" for memory in report["memory"].values())
    columns = ("switch", "ms", "times a copy", "times faster than a new engine")
    title = f"{report['bytes'] / 1e6:.0f} MB a model"
    return [
        table(title, columns, rows, right=(1, 2, 3)),
        f"memory after {swaps} switches (kernels made anew, kernels held): {grown}",
    ]


def _unlike_swap_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    seconds = report["seconds"]
    rows = [(name, f"{1000 * one['wake']:.1f}", f"{one['rebuild']:.2f}") for name, one in seconds.items()]
    bars = [(_bar_name(name, bar), bar["measured"], bar["bar"]) for name, bar in report["bars"].items()]
    memory, killed = report["memory"], report["killed"]
    return [
        table(f"{report['switches']} switches", ("engine", "wake ms", "new engine s"), rows, right=(1, 2)),
        table(f"Bars ({report['largest']})", ("what", "measured", "bar"), bars, right=(1, 2)),
        "memory, GB: {:.2f} reserved and {:.2f} taken at most, of {:.2f}".format(
            *(memory[name] / 1e9 for name in ("peak_reserved", "peak_resident", "budget"))
        ),
        "two engines killed: {answered_once} of {asked} calls answered once, {given_up} given up".format(**killed),
    ]


@app.command("lines")
def lines(
    out: options.Report = Path("out/bench/lines.json"),
    pool: options.Pool = "tiny",
    count: Annotated[int, typer.Option("--lines", min=1000, help="Lines of the larger job.")] = 1_000_000,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure time and memory of a batch of lines of 1 kB with echo experts, and of a tenth held in memory at once."""
    from symmoe.bench.lines import measure

    from .render import end_measuring, narrating, write_report

    with narrating("measuring") as tell:
        report = measure(count, pool, seed, tell, lambda so_far: write_report(so_far, out))
    end_measuring(report, out, json, _lines_tables)


def _lines_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    rows = [
        (name, run["lines"], run["seconds"], run["lines_per_second"], run["cpu_seconds"], run["peak_mib"])
        for name, run in report["runs"].items()
    ]
    bars = [(name, bar["measured"], bar["bar"]) for name, bar in report["bars"].items()]
    columns = ("run", "lines", "s", "lines/s", "CPU s", "peak MiB")
    return [
        table(f"Rows of {report['row_bytes']} bytes, k = {report['k']}", columns, rows, right=range(1, 6)),
        table("Bars", ("what", "measured", "bar"), bars, right=(1, 2)),
        f"every line has its row: {'yes' if report['whole'] else 'no'}",
    ]


@app.command("batch")
def batch(
    out: options.Report = Path("out/bench/batch.json"),
    pool: options.Pool = "tiny",
    experts: Annotated[int, typer.Option("--experts", min=2, help="Experts, with copies if the pool has fewer.")] = 16,
    per_family: options.PerFamily = 24,
    k: Annotated[int, typer.Option("--k", min=1, help="Number of experts for each question.")] = 3,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Number of measurements of both sides.")] = 3,
    processes: Annotated[
        bool, typer.Option("--processes", help="Also measure new engines in their own processes, vLLM's default.")
    ] = False,
    unlike: Unlike = False,
    model: OtherModel = None,
    workers: Annotated[
        list[int] | None, typer.Option("--workers", min=2, help="Workers, here or at RAY_ADDRESS; repeatable.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Time a batch over many experts, against no switching at all and against a new engine for every expert.

    With --unlike: five experts of four unlike models, whose engines sleep while others run. With --workers: the same
    divided among workers, against the planned time; then --model is not needed.
    """
    import os

    from symmoe.bench.loading import Workload, measure_batch
    from symmoe.bench.unlike import measure_unlike_batch, measure_unlike_workers
    from symmoe.config import read_pool

    from .render import end_measuring, narrating

    config, work = read_pool(pool), Workload(experts, per_family, k, seed)
    with narrating("measuring") as tell:
        if workers:
            report = measure_unlike_workers(config, model, work, workers, os.environ.get("RAY_ADDRESS"), tell)
        elif unlike:
            report = measure_unlike_batch(config, model, work, rounds, processes, tell)
        else:
            report = measure_batch(config, work, rounds, processes, tell)
    end_measuring(report, out, json, _workers_tables if workers else _batch_tables)


def _batch_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    ours, experts = report["seconds"]["ours"], report["experts"]
    rows = [(name, f"{seconds:.1f}", f"{seconds / ours:.2f}") for name, seconds in report["seconds"].items()]
    title = f"{report['calls']} calls to {experts if isinstance(experts, int) else len(experts)} experts"
    equal = ", ".join(f"{name}: {same['equal']} of {same['of']}" for name, same in report["identical"].items())
    return [table(title, ("way", "s", "times ours"), rows, right=(1, 2)), f"equal answers: {equal}"]


def _workers_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    rows = [
        (count, f"{row['planned']:.1f}", f"{row['seconds']:.1f}", f"{row['to_plan']:.2f}",
         f"{row['identical']['equal']} of {row['identical']['of']}")
        for count, row in report["workers"].items()
    ]  # fmt: skip
    title = f"{report['calls']} calls; one worker: {report['one_worker_seconds']:.1f} s"
    return [table(title, ("workers", "planned s", "s", "times planned", "answers as one's"), rows, right=range(1, 5))]


@app.command("plan")
def plan(
    out: options.Report = Path("out/bench/plan.json"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Number of pools of each size.")] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="Use small sizes, to try the command.")] = False,
    json: options.Json = False,
) -> None:
    """Plan simulated pools with published costs in four ways, and compare makespans with the lower bound."""
    from symmoe.bench.planning import CLUSTERS, QUICK, SIZES, measure

    from .render import end_measuring, narrating

    with narrating("planning") as tell:
        report = measure(range(seeds), QUICK if quick else SIZES, tell, () if quick else CLUSTERS)
    end_measuring(report, out, json, _plan_tables)


def _plan_tables(report: dict[str, Any]) -> list[Any]:
    from .render import table

    ways, spread = list(report["cases"][0]["over_bound"]), "{median:.3f} ({worst:.3f})".format_map
    sizes, figures = (
        ("experts", "models", "devices", "machines"),
        ("to_plain", "busy_to_plain", "noisy_to_plain", "loads"),
    )
    rows = [
        (
            case["experts"],
            case["devices"],
            f"{case['bound_seconds']:.0f}",
            *(spread(case["over_bound"][way]) for way in ways),
            spread(case["planning_seconds"]),
        )
        for case in report["cases"]
    ]
    bars = [
        (_bar_name(name, bar), "-" if bar["measured"] is None else f"{bar['measured']:.3f}", bar["bar"], _met(bar))
        for name, bar in report["bars"].items()
    ]
    wrong = [(name, *map(spread, ways_of.values())) for name, ways_of in report["gone_wrong"].items()]
    joint_loads = [[*map(case.get, sizes), *(spread(case[name]) for name in figures)] for case in report["gathering"]]
    seeds = len(report["settings"]["seeds"])
    columns = ("experts", "devices", "bound s", *ways, "planning s")
    return [
        table(f"Makespan by lower bound, median (worst) of {seeds} pools", columns, rows, right=range(9)),
        table(
            "The published pool with costs other than planned: makespan by the planned one",
            ("costs", *next(iter(report["gone_wrong"].values()))),
            wrong,
            right=range(1, 6),
        ),
        table(
            "Machines that read models together, by the same plan without it",
            (*sizes, *figures),
            joint_loads,
            range(8),
        ),
        table("Bars", ("what", "measured", "bar", "met"), bars, right=(1, 2)),
    ]


def _bar_name(name: str, bar: dict[str, Any]) -> str:
    """The name of a bar, with the number of pools that it is judged on if the report gives it."""
    return name.replace("_", " ") + (f" ({bar['pools']} pools)" if "pools" in bar else "")


def _met(bar: dict[str, Any]) -> str:
    return "no case" if bar["met"] is None else "yes" if bar["met"] else "NO"


@app.command("gather")
def gather(
    out: options.Report = Path("out/bench/gather.json"),
    megabytes: Annotated[int, typer.Option("--megabytes", min=1, help="Size of the file, in MiB.")] = 256,
    ranks: Annotated[str, typer.Option("--ranks", help="Numbers of processes, with commas.")] = "2,4",
    throttle: Annotated[
        float,
        typer.Option("--throttle", min=1, max=1e6, help="Rate of the shared storage for all readers, in MiB/s."),
    ] = 400.0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Number of measurements of each.")] = 3,
    kill: Annotated[
        bool, typer.Option("--kill", help="Also kill one rank half-way, and report how the others end.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Time ranks that each read a part of a file and exchange parts, against each reading all of it."""
    from symmoe.bench.gathering import measure

    from .render import end_measuring, working

    counts = _counts(ranks)
    with working("measuring"):
        report = measure(megabytes, counts, throttle, repeats, kill)
    end_measuring(report, out, json, lambda report: _gather_tables(report, megabytes))


def _gather_tables(report: dict[str, Any], megabytes: int) -> list[Any]:
    from .render import table

    rows = [_gather_row(count, name, report["ranks"][count][name]) for count in report["ranks"] for name in _STORAGE]
    read = [
        f"{count} ranks read of {megabytes} MiB: {', '.join(map(str, row['throttled']['mib_read_per_rank']))}"
        for count, row in report["ranks"].items()
    ]
    columns = ("ranks", "storage", "alone s", "grouped s", "times", "exact", "plan")
    parts: list[Any] = [table(f"{megabytes} MiB, {report['backend']}", columns, rows, right=(0, 2, 3, 4)), *read]
    if report.get("kill"):
        parts += [f"rank {report['kill']['killed']} killed:", *map(_ending, report["kill"]["others"])]
    return parts


@app.command("replicas")
def replicas(
    out: options.Report = Path("out/bench/replicas.json"),
    pool: options.Pool = "tiny",
    expert: Annotated[str | None, typer.Option("--expert", help="The expert to read; default: the first.")] = None,
    machines: Annotated[int, typer.Option("--machines", min=2, help="Machines, each a folder of this one.")] = 2,
    count: Annotated[int, typer.Option("--replicas", min=2, help="Replicas, on the machines in turn.")] = 4,
    throttle: Annotated[
        float,
        typer.Option("--throttle", min=1, max=1e6, help="Rate of the shared storage for all readers, in MiB/s."),
    ] = 400.0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Number of measurements of both ways.")] = 3,
    json: options.Json = False,
) -> None:
    """Time replicas that start at once on several machines: reading together, against each reading alone."""
    from symmoe.bench.replicas import measure
    from symmoe.build import Assembly
    from symmoe.errors import PoolError

    from .render import end_measuring, table, working

    config = options.ready(pool)
    if not config.engine.runs_models:
        raise PoolError(f"pool {config.name!r} has no weights to read", hint="measure with --pool tiny or starter")
    directory = Path(Assembly(config).weights(expert or config.names[0]).model)
    with working("measuring"):
        report = measure(directory, machines, count, throttle, repeats)
    rows = [(name, f"{seconds:.2f}") for name, seconds in report["seconds"].items()]
    bars = [f"{name}: {each['measured']} (bar {each['bar']})" for name, each in report["bars"].items()]
    title = f"{count} replicas on {machines} machines, {report['mib']} MiB at {throttle:g} MiB/s"
    parts = [table(title, ("way", "s"), rows, right=(1,)), *bars, f"exact: {report['exact']}"]
    end_measuring(report, out, json, lambda report: parts)


def _counts(text: str) -> list[int]:
    from symmoe.errors import RequestError

    counts = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if min(counts) < 2:
        raise RequestError(f"--ranks {text}: not numbers of at least 2, with commas", code="bad_ranks")
    return counts


def _gather_row(count: str, name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    exact = "yes" if row["bit_exact"] else "NO"
    seconds = (f"{row['independent_seconds']:.3f}", f"{row['grouped_seconds']:.3f}")
    return count, _STORAGE[name], *seconds, f"{row['times']:.2f}", exact, row["plan"]["mode"]


def _ending(other: dict[str, Any]) -> str:
    return f"  after {other['seconds']:.2f} s: {other['error']}"


@app.command("gate", hidden=True)  # the former name
@app.command("scoring")
def scoring(
    out: options.Report = Path("out/bench/scoring.json"),
    pool: options.Pool = "tiny",
    reward: Annotated[str | None, typer.Option("--reward", help="A reward model in place of the pool's.")] = None,
    per_family: Annotated[int, typer.Option("--per-family", min=1, help="Questions of each family and split.")] = 40,
    everyday: Annotated[
        int | None, typer.Option("--everyday", min=0, help="Everyday questions of each split; default: 60, tiny: 0.")
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=0, help="Further answers asked of the best experts.")] = 4,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, max=100, help="Of these answers.")] = 1.0,
    seed: options.Seed = 1,
    json: options.Json = False,
) -> None:
    """Measure choosing among the same candidates with and without the scorer, and when to skip the aggregator.

    Thresholds are fitted on validation questions; all figures are of held-out ones. Answers of experts are kept beside
    the report, and a further run asks only for those that are missing.
    """
    from symmoe.bench.scoring import measure, plot_sweep
    from symmoe.build import Assembly
    from symmoe.config import TINY, RewardConfig, read_pool
    from symmoe.questions.suites import everyday_suite, mixed_suite
    from symmoe.training.rated import Drawing

    from .render import show_measured, watching, write_report

    config = read_pool(pool)
    if reward is not None:
        config = config.model_copy(update={"reward": RewardConfig(model=reward)})
    options.fetch_and_verify(config)
    everyday_count = 60 * (config.name != TINY) if everyday is None else everyday
    validation, held_out = (
        mixed_suite(per_family, split, seed) + everyday_suite(split, everyday_count, seed)
        for split in ("profile", "test")
    )
    drawing = Drawing(draws, temperature=temperature)
    with watching("asking, judging, aggregating") as watch:
        report = measure(Assembly(config), validation, held_out, drawing, out.parent / f"{out.stem}-outputs", watch)
    write_report(report, out)
    plot = _plot_beside(out)
    plot_sweep(report["skipping"], plot)
    show_measured(report, out, json, lambda report: [*_scorer_tables(report), f"plot in {plot}"])


def _scorer_tables(report: dict[str, Any]) -> list[Any]:
    from .render import percent, points, table

    rows = [
        (
            setting.replace("_", " "),
            name.replace("_", " "),
            percent(row["accuracy"]),
            points(row["over_plain_vote"]),
            points(row["over_profile_vote"]),
        )
        for setting, found in report["choosing"].items()
        for name, row in found["ways"].items()
    ]
    columns = ("candidates", "way", "right %", "over plain vote", "over profile vote")
    skipped = report["skipping"]
    lines = [
        (name, percent(row["skipped"]), points({"points": row["loss"], "ci95": _interval(row)}))
        for name, row in (("validation", skipped["validation"]), ("held out", skipped["held_out"]))
    ]
    return [
        table("Choosing among the same candidates (points, 95 %)", columns, rows, right=(2, 3, 4)),
        table(
            f"Skipping {report['aggregator']} as aggregator", ("questions", "skipped %", "loss"), lines, right=(1, 2)
        ),
    ]


def _interval(row: dict[str, Any]) -> list[float]:
    return list(row["ci95"]) if "ci95" in row else [row["low"], row["high"]]


def _plot_beside(out: Path) -> Path:
    """The file for the plot of a report."""
    return out.with_suffix(".plot.png" if out.suffix == ".png" else ".png")


for measure in (bench_quality.quality, bench_service.serve, bench_service.siege, bench_service.tracing):
    app.command(measure.__name__)(measure)
