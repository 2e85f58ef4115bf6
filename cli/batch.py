"""`symmoe batch`: answer files of questions, and check, verify or retry such jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import options

if TYPE_CHECKING:
    from datetime import datetime

    from symmoe.batch.checking import Accuracy
    from symmoe.batch.job import BatchJob
    from symmoe.batch.progress import BatchResult, Status
    from symmoe.build import Assembly
    from symmoe.config import Pool
    from symmoe.engines.chat import ChatTokenizer
    from symmoe.protocols import Store

app = typer.Typer(help="Answer files of questions.", no_args_is_help=True)
PARTLY_DONE, NOT_WHOLE = 3, 4
Output = Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The output file of the job, as given to -o.")]


class OnFailure(StrEnum):
    """What a job does when an expert fails."""

    NEXT = "next"
    STOP = "stop"


@app.command("run")
def run(
    sources: options.Sources,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The output file: .jsonl, .csv or .parquet.")
    ],
    pool: options.Pool = "starter",
    k: options.K = None,
    quality: options.Quality = None,
    seed: options.Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run with the same output.")] = False,
    prompt: options.Prompt = None,
    prompt_column: options.PromptColumn = None,
    id_column: options.IdColumn = None,
    system: options.System = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="COLUMN", help="The column with the known answers; implies --score."),
    ] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Report at the end how many answers are right, by skill and by expert.")
    ] = False,
    limit: options.Limit = None,
    sample: options.Share = 1.0,
    until: Annotated[
        str | None, typer.Option("--until", metavar="HH:MM", help="Stop at this time of day; continue with --resume.")
    ] = None,
    trace: Annotated[
        Literal["full", "brief", "none"],
        typer.Option("--trace", help="How much of the evidence to write beside the output."),
    ] = "full",
    explain: Annotated[
        bool, typer.Option("--explain", help="Add to every trace why each expert was chosen or not.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            max=1024,
            help="Engines that run in parallel, here or on the Ray cluster at RAY_ADDRESS.",
        ),
    ] = 1,
    on_failure: Annotated[
        OnFailure, typer.Option("--on-failure", help="When an expert fails: ask the next best one, or stop the job.")
    ] = OnFailure.NEXT,
    max_error_rate: Annotated[
        float,
        typer.Option(
            "--max-error-rate", min=0, max=1, help="Stop once more than this share of the lines failed, 0 to 1."
        ),
    ] = 1.0,
    without_ray_token: options.WithoutRayToken = False,
    json: options.Json = False,
) -> None:
    """Answer every row of files of questions, in order; traces and failed rows are written beside the output.

    Exit code 3: some rows could not be answered. Exit code 4: more than --max-error-rate failed, or the time of --until
    was reached. OUT.errors.jsonl has every row that failed.
    """
    arguments = {
        "pool": pool,
        "k": k,
        "quality": quality,
        "seed": seed,
        "explain": explain,
        "workers": workers,
        "on_failure": on_failure.value,
        "max_error_rate": max_error_rate,
        "without_ray_token": without_ray_token,
        "prompt": prompt,
        "prompt_column": prompt_column,
        "id_column": id_column,
        "system": system,
        "reference": reference,
        "score": score or reference is not None,
        "limit": limit,
        "sample": sample,
        "trace": trace,
    }
    _seconds_until(until)
    _run(sources, output, arguments, resume, False, json, until)


@app.command("retry")
def retry(output: Output, json: options.Json = False) -> None:
    """Ask the lines that failed again, with the options of their job; all other rows stay as they are."""
    from symmoe.batch.record import Files, Record
    from symmoe.errors import JobError

    settings = Record(Files(output)).settings()
    if settings is None:
        raise JobError(f"{output}: no job has this output", hint="give the file that -o named")
    arguments = dict(settings["words"])
    _run(arguments.pop("sources"), output, arguments, True, True, json)


def _run(
    sources: list[str],
    output: Path,
    arguments: dict[str, Any],
    resume: bool,
    retry_failed: bool,
    json: bool,
    until: str | None = None,
) -> None:
    from symmoe.batch.job import BatchJob, run_batch
    from symmoe.batch.record import job_lock
    from symmoe.build import fingerprint
    from symmoe.rows.files import find_files
    from symmoe.store import open_store

    from .render import following, tell

    find_files(sources)  # report a wrong name before a model is fetched

    read = [arguments[name] for name in ("prompt", "prompt_column", "id_column", "system", "reference", "score")]
    reading = options.reading(*read)
    pool = options.with_quality(options.ready(arguments["pool"]), arguments["quality"])
    job = BatchJob(
        tuple(sources),
        output,
        pool,
        fingerprint(pool),
        arguments["k"],
        arguments["seed"],
        arguments["explain"],
        arguments["on_failure"] == OnFailure.STOP,
        arguments["max_error_rate"],
        {"sources": sources, **arguments},
        reading,
        arguments["trace"],
        arguments["limit"],
        arguments["sample"],
    )
    store = open_store()
    latest: list[Status] = []
    try:
        with (
            _stopped_at(until),
            job_lock(job.files),
            following(_progress_line) as (watch, follow),
            _assembly(pool, arguments["workers"], store, arguments["without_ray_token"]) as assembly,
        ):
            on_status = _noting(latest, follow)
            result = run_batch(job, assembly, store, resume, watch, retry_failed, on_status, options.show_shapes)
    except KeyboardInterrupt as stop:
        reason = f"it is {stop}" if isinstance(stop, _TimeIsUp) else "stopped"
        command = _resume_command(sources, output, arguments)
        tell(f"{reason}; nothing is lost. Continue with: {command}")
        if json:
            _show_stopped(output, reason, command, latest)
        raise typer.Exit(NOT_WHOLE if isinstance(stop, _TimeIsUp) else 130) from None
    score = None
    if arguments["score"]:
        from symmoe.batch.checking import accuracy

        score = accuracy(output, reading)
    _show_result(job, result, score, json)
    if result.failed:
        raise typer.Exit(PARTLY_DONE)


def _noting(latest: list[Status], follow: Callable[[Status], None]) -> Callable[[Status], None]:
    """`follow`, which also leaves the status of the job in `latest`."""

    def note(status: Status) -> None:
        latest[:] = [status]
        follow(status)

    return note


def _show_stopped(output: Path, reason: str, command: str, latest: Sequence[Status]) -> None:
    """Show as JSON that the job was stopped; without counts if that was before it began."""
    from .render import show_json

    done, failed = (latest[0].done, latest[0].failed) if latest else (None, None)
    facts = {"output": str(output), "state": "stopped", "reason": reason, "done": done, "failed": failed}
    show_json({**facts, "continue": command})


def _show_result(job: BatchJob, result: BatchResult, score: Accuracy | None, json: bool) -> None:
    from .render import show, show_json, tell

    if json:
        show_json(
            {
                "output": str(job.output),
                "trace": None if job.detail == "none" else str(job.trace),
                "errors": str(job.files.errors) if result.failed else None,
                "answered": result.answered,
                "failed": result.failed,
                "lines_kept": result.kept,
                "candidates_resumed": result.resumed,
                "ignored": dict(result.ignored),
                "causes": {code: [cause.count, cause.line, cause.message] for code, cause in result.causes.items()},
                "experts_lost": dict(result.lost),
                "score": None if score is None else score.report,
                "window": result.window,
                "seconds": {stage: round(spent, 3) for stage, spent in result.seconds.items()},
                "loads": [list(load) for load in result.loads],
            }
        )
        return
    counts = f"{result.answered} answered, {result.failed} failed, in {job.output}"
    evidence = "" if job.detail == "none" else f"; evidence in {job.trace}"
    show(f"{counts}{evidence}" if result.ran else f"already finished: {counts}")
    if result.causes:
        retry = f"symmoe batch retry {job.output}"
        again = "mend the rows and run again without --resume" if job.tabled else retry
        show(_causes_table(result), f"all of them: {job.files.errors}; to ask them again: {again}")
    if score is not None:
        show(_score_table(score))
    for expert, why in result.lost.items():
        tell(f"expert {expert} failed and was not asked any more: {why}")
    if result.ignored:
        named = ", ".join(f"{name} ({lines} lines)" for name, lines in sorted(result.ignored.items()))
        tell(f"fields without effect: {named}")


def _score_table(score: Accuracy) -> Any:
    from .render import percent, table

    groups = [("all", "", [score.right, score.graded])]
    groups += [("skill", name, tally) for name, tally in sorted(score.by_skill.items())]
    groups += [("expert", name, tally) for name, tally in sorted(score.by_expert.items())]
    rows = [(by, name, f"{of:,}", f"{right:,}", percent(right / of) if of else "") for by, name, (right, of) in groups]
    title = f"Right answers; {score.unknown:,} rows have no known answer" if score.unknown else "Right answers"
    return table(title, ("by", "", "graded", "right", "%"), rows, right=(2, 3, 4))


def _causes_table(result: BatchResult) -> Any:
    from .render import table

    rows = [(code, cause.count, cause.line, cause.message) for code, cause in result.causes.items()]
    return table("Why lines failed", ("code", "lines", "first line", "message"), rows, right=(1, 2))


@app.command("verify")
def verify(
    sources: options.Sources,
    output: Output,
    id_column: options.IdColumn = None,
    limit: options.Limit = None,
    sample: options.Share = 1.0,
    json: options.Json = False,
) -> None:
    """Check, from the files alone, that every line has exactly one row, in order, and that there are no other rows.

    Exit code 3: some rows are errors. Exit code 4: rows are missing, duplicated, of no line, or out of order.
    """
    from dataclasses import asdict

    from symmoe.batch.checking import verify as compare

    from .render import show, show_json, table, working

    with working("comparing"):
        found = compare(sources, output, options.reading(None, None, id_column, None), limit, sample)
    if json:
        show_json(asdict(found) | {"whole": found.whole})
    else:
        counts = [(name, getattr(found, name)) for name in ("lines", "rows", "answered", "failed")]
        kinds = ("missing", "twice", "strange", "moved")
        faults = [(name, getattr(found, name), _numbers(found.examples.get(name, ()))) for name in kinds]
        show(
            table("Every line accounted for" if found.whole else "Not every line is accounted for",
                  ("what", "how many", "such as"), [*((*each, "") for each in counts), *faults], right=(1,))
        )  # fmt: skip
    if not found.whole or found.failed:
        raise typer.Exit(PARTLY_DONE if found.whole else NOT_WHOLE)


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


@app.command("status")
def status(output: Output, json: options.Json = False) -> None:
    """Show the progress of a job, or its result once it has ended."""
    from symmoe.batch.record import Files, read_status

    from .render import show, show_json

    found = read_status(Files(output))
    show_json(found) if json else show(f"{found['state']}: {_status_line(found)}")


def _progress_line(status: Status) -> str:
    from dataclasses import asdict

    return _status_line(asdict(status))


def _status_line(status: Mapping[str, Any]) -> str:
    """The progress of a job in one line."""
    parts = [f"{status['done']} done", f"{status['failed']} failed"]
    parts += [f"{status['lines_per_second']:.1f} lines/s", f"{status['tokens_per_second']:.0f} tokens/s"]
    if status["left"] is not None and status["state"] == "running":
        parts.append(f"{_duration(status['left'])} left")
    if status["expert"] and status["state"] == "running":
        parts.append(f"{status['expert']} at work ({status['lane']})")
    return ", ".join([*parts, f"{status['loads']} loads"])


@app.command("check")
def check(
    sources: options.Sources,
    pool: options.Pool = "starter",
    k: options.K = None,
    quality: options.Quality = None,
    seed: options.Seed = 0,
    prompt: options.Prompt = None,
    prompt_column: options.PromptColumn = None,
    id_column: options.IdColumn = None,
    system: options.System = None,
    limit: options.Limit = None,
    sample: options.Share = 1.0,
    json: options.Json = False,
) -> None:
    """Read files of questions as `batch run` would: report rows with errors, and estimate calls, loads and time.

    No expert is loaded. Exit code 3: some rows cannot be asked.
    """
    from symmoe.batch.checking import fit, look, predict, report
    from symmoe.batch.lines import LineReader
    from symmoe.batch.windows import choose_window
    from symmoe.build import Assembly
    from symmoe.rows.files import find_files
    from symmoe.store import open_store

    from .render import counting, show, show_json, tell, working

    reading = options.reading(prompt, prompt_column, id_column, system)
    find_files(sources)
    config = options.with_quality(options.ready(pool), quality)
    lines = LineReader(config, k, reading).read(*sources, limit=limit, share=sample)
    options.show_shapes(lines)
    with counting("reading rows", lines.meter) as counted:
        seen = look(lines, config.engine.max_model_len, seed, counted)
    with working("counting tokens and recruiting"):
        assembly = Assembly(config)
        fits = {name: fit(seen, tokenizer) for name, tokenizer in _tokenizers(assembly).items()} if seen.good else {}
        costs = assembly.costs(open_store())
        shares = predict(seen, assembly, costs, seed)
    facts = report(seen, fits, shares, choose_window(costs.costs(), config.engine.runs_models))
    if json:
        show_json(facts)
    else:
        show(*_check_tables(facts))
        guessed = [share.expert for share in shares if share.guessed]
        if guessed:
            tell(f"times are guessed, not measured, for: {', '.join(guessed)}")
    if seen.bad:
        raise typer.Exit(PARTLY_DONE)


def _tokenizers(assembly: Assembly) -> dict[str, ChatTokenizer]:
    """A tokenizer for each model of the pool, by one of its experts; none if the pool runs no models."""
    from symmoe.engines.chat import ChatTokenizer

    if assembly.pool.engine.kind != "vllm":
        return {}
    window = assembly.pool.engine.max_model_len
    first = {model: expert for expert, model in reversed(assembly.models.items())}
    return {expert: ChatTokenizer(str(assembly.weights(expert).model), window) for expert in first.values()}


def _check_tables(facts: dict[str, Any]) -> list[Any]:
    """The results of a check as tables."""
    from .render import table

    shapes = [(shape, f"{lines:,}") for shape, lines in facts["shapes"].items()]
    causes = [(code, f"{each['lines']:,}", each["first"], each["message"]) for code, each in facts["causes"].items()]
    tokens = [
        (name, each["median"], each["p99"], f"{'' if each['exact'] else 'about '}{each['too_long']:,}")
        for name, each in facts["tokens"].items()
    ]
    experts = [
        (name, f"{each['calls']:,}", f"{each['load_seconds']:.1f}", f"{each['answer_seconds']:,.0f}")
        for name, each in facts["experts"].items()
    ]
    again = f"; {facts['repeated']:,} repeat the prompt of an earlier row" if facts["repeated"] else ""
    parts: list[Any] = [table("Rows", ("read from", "rows"), shapes, right=(1,))]
    if causes:
        parts.append(table("Rows that cannot be asked", ("code", "rows", "first", "such as"), causes, right=(1, 2)))
    if tokens:
        columns = ("tokens by", "median", "99 %", f"no room in {facts['window']}")
        parts.append(table("Prompts", columns, tokens, right=(1, 2, 3)))
    if experts:
        parts.append(table("Experts", ("expert", "calls", "load s", "answer s"), experts, right=(1, 2, 3)))
    parts.append(
        f"{facts['good']:,} of {facts['lines']:,} rows can be asked{again}. One engine: {facts['loads']} loads, "
        f"{facts['calls']:,} calls, about {_duration(facts['seconds'])}. In {facts['windows']}"
    )
    return parts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.0f} s"


class _TimeIsUp(KeyboardInterrupt):
    """The time of --until was reached."""


def _seconds_until(clock: str | None, now: datetime | None = None) -> float | None:
    """Seconds until a time of day, today or tomorrow. Raises `RequestError` if `clock` is not HH:MM."""
    from datetime import datetime, timedelta

    from symmoe.errors import RequestError

    if clock is None:
        return None
    now = now or datetime.now()
    try:
        due = datetime.combine(now, datetime.strptime(clock, "%H:%M").time())
    except ValueError as error:
        raise RequestError(f"--until {clock}: not a time of day", code="bad_option", hint="such as 06:00") from error
    due += timedelta(days=due <= now)
    return due.timestamp() - now.timestamp()  # not a difference of local times: clocks may change in between


@contextmanager
def _stopped_at(clock: str | None) -> Iterator[None]:
    """Interrupt the block at a time of day, as Ctrl-C would."""
    seconds = _seconds_until(clock)
    if seconds is None:
        yield
        return
    import signal

    def stop(number: int, frame: object) -> None:
        raise _TimeIsUp(clock)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), 1.0)  # repeated: one may be swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _assembly(pool: Pool, workers: int, store: Store, without_ray_token: bool) -> Iterator[Assembly]:
    """The parts of the pool; with several workers, plans are divided among them by cost and run on Ray."""
    from symmoe.build import Assembly

    with closing(Assembly(pool)) as assembly:
        if workers == 1:
            yield assembly
            return
        import os

        from symmoe.deployments.executor import RayExecutor

        costs, address = assembly.costs(store).costs(), os.environ.get("RAY_ADDRESS")
        with RayExecutor(pool, workers, address, costs, without_token=without_ray_token) as executor:
            assembly.spread(executor, workers, costs)
            yield assembly


def _resume_command(sources: Sequence[str], output: Path, arguments: Mapping[str, Any]) -> str:
    """The command that continues a job, with all options that the job was started with."""
    import shlex

    command = ["symmoe", "batch", "run", *sources, "-o", str(output)]
    for name, value in arguments.items():
        option = f"--{name.replace('_', '-')}"
        command += [option] if value is True else [] if value is None or value is False else [option, str(value)]
    return shlex.join([*command, "--resume"])
