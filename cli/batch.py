"""`symmoe batch`: files of questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.batch.job import BatchJob, BatchResult, Status
    from symmoe.build import Assembly
    from symmoe.config import Pool
    from symmoe.protocols import Store

app = typer.Typer(help="Answer files of questions.", no_args_is_help=True)
PARTLY_DONE, NOT_WHOLE = 3, 4
Output = Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="What -o named.")]


class OnFailure(StrEnum):
    """What is done about an expert that fails."""

    NEXT = "next"
    STOP = "stop"


@app.callback()
def _group() -> None:
    """Answer files of questions."""


@app.command("run")
def run(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="OpenAI batch lines, or {id, prompt} lines.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.jsonl", help="Where answers go.")],
    pool: options.Pool = "starter",
    k: options.K = None,
    quality: options.Quality = None,
    seed: options.Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run with the same output stopped.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Have every trace say why its experts were chosen and others not.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=1024, help="Engines at work at once, on this machine or at RAY_ADDRESS."),
    ] = 1,
    on_failure: Annotated[
        OnFailure, typer.Option("--on-failure", help="Of an expert that fails: ask the next best, or stop the job.")
    ] = OnFailure.NEXT,
    max_error_rate: Annotated[
        float, typer.Option("--max-error-rate", min=0, max=1, help="Stop once more than this share of lines failed.")
    ] = 1.0,
    without_ray_token: options.WithoutRayToken = False,
    json: options.Json = False,
) -> None:
    """Answer every line of a file, in order, while rows appear; traces and failed lines go beside the output.

    Exit code 3 says that some lines could not be answered, 4 that too many failed: OUT.errors.jsonl has each.
    """
    words = {
        "pool": pool,
        "k": k,
        "quality": quality,
        "seed": seed,
        "explain": explain,
        "workers": workers,
        "on_failure": on_failure.value,
        "max_error_rate": max_error_rate,
        "without_ray_token": without_ray_token,
    }
    _run(source, output, words, resume, False, json)


@app.command("retry")
def retry(output: Output, json: options.Json = False) -> None:
    """Run the lines that failed once more, under the options that their job had; the rest stays as it is."""
    from symmoe.batch.record import Files, Record
    from symmoe.errors import JobError

    settings = Record(Files(output)).settings()
    if settings is None:
        raise JobError(f"{output}: no job has this output", hint="name what -o named")
    words = dict(settings["words"])
    _run(Path(words.pop("source")), output, words, True, True, json)


def _run(source: Path, output: Path, words: dict[str, Any], resume: bool, again: bool, json: bool) -> None:
    from symmoe.batch.job import BatchJob, run_batch
    from symmoe.batch.record import job_lock
    from symmoe.build import fingerprint
    from symmoe.errors import JobError
    from symmoe.store import open_store

    from .render import following, tell

    if not source.is_file():
        raise JobError(f"{source}: no such file")
    pool = options.with_quality(options.ready(words["pool"]), words["quality"])
    job = BatchJob(
        source,
        output,
        pool,
        fingerprint(pool),
        words["k"],
        words["seed"],
        words["explain"],
        words["on_failure"] == OnFailure.STOP,
        words["max_error_rate"],
        {"source": str(source), **words},
    )
    store = open_store()
    try:
        with (
            job_lock(job.files),
            following(_told) as (watch, follow),
            _assembly(pool, words["workers"], store, words["without_ray_token"]) as assembly,
        ):
            result = run_batch(job, assembly, store, resume, watch, again, follow)
    except KeyboardInterrupt:
        tell(f"stopped; nothing is lost. Go on with: {_again(source, output, words)}")
        raise typer.Exit(130) from None
    _show_result(job, result, json)
    if result.failed:
        raise typer.Exit(PARTLY_DONE)


def _show_result(job: BatchJob, result: BatchResult, json: bool) -> None:
    from .render import show, show_json, tell

    if json:
        show_json(
            {
                "output": str(job.output),
                "trace": str(job.trace),
                "errors": str(job.files.errors) if result.failed else None,
                "answered": result.answered,
                "failed": result.failed,
                "lines_kept": result.kept,
                "candidates_resumed": result.resumed,
                "ignored": dict(result.ignored),
                "causes": {code: [cause.count, cause.line, cause.message] for code, cause in result.causes.items()},
                "experts_lost": dict(result.lost),
                "window": result.window,
                "seconds": {stage: round(spent, 3) for stage, spent in result.seconds.items()},
                "loads": [[load.expert, load.lane] for load in result.loads],
            }
        )
        return
    counts = f"{result.answered} answered, {result.failed} failed, in {job.output}"
    show(f"{counts}; evidence in {job.trace}" if result.ran else f"already finished: {counts}")
    if result.causes:
        show(_causes_table(result), f"each of them: {job.files.errors}; once more: symmoe batch retry {job.output}")
    for expert, why in result.lost.items():
        tell(f"expert {expert} failed and was not asked any more: {why}")
    if result.ignored:
        named = ", ".join(f"{name} ({lines} lines)" for name, lines in sorted(result.ignored.items()))
        tell(f"fields without effect: {named}")


def _causes_table(result: BatchResult) -> Any:
    from .render import table

    rows = [(code, cause.count, cause.line, cause.message) for code, cause in result.causes.items()]
    return table("Why lines failed", ("code", "lines", "such as line", "what was wrong"), rows, right=(1, 2))


@app.command("verify")
def verify(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="What was asked.")],
    output: Output,
    json: options.Json = False,
) -> None:
    """Tell from the two files alone whether every line has its row, once, in order, and nothing else has.

    Exit code 3 says that some rows are errors, 4 that rows are missing, twice, strange or out of order.
    """
    from dataclasses import asdict

    from symmoe.batch.verify import verify as compare

    from .render import show, show_json, table, working

    with working("comparing"):
        found = compare(source, output)
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
    """How a job stands, while it runs and after."""
    from symmoe.batch.record import Files, read_status

    from .render import show, show_json

    found = read_status(Files(output))
    show_json(found) if json else show(f"{found['state']}: {_told_of(found)}")


def _told(status: Status) -> str:
    from dataclasses import asdict

    return _told_of(asdict(status))


def _told_of(status: Mapping[str, Any]) -> str:
    """One line of how a job stands."""
    words = [f"{status['done']} done", f"{status['failed']} failed"]
    words += [f"{status['lines_per_second']:.1f} lines/s", f"{status['tokens_per_second']:.0f} tokens/s"]
    if status["left"] is not None:
        words.append(f"{status['left']:.0f} s left")
    if status["expert"]:
        words.append(f"{status['expert']} at work ({status['lane']})")
    return ", ".join([*words, f"{status['loads']} loads"])


@contextmanager
def _assembly(pool: Pool, workers: int, store: Store, without_ray_token: bool) -> Iterator[Assembly]:
    """The pool's parts; with more than one worker, plans are divided by cost and run on Ray."""
    from symmoe.build import Assembly

    assembly = Assembly(pool)
    if workers == 1:
        yield assembly
        return
    import os

    from symmoe.deployments.executor import RayExecutor

    costs = assembly.costs(store).costs()
    with RayExecutor(pool, workers, os.environ.get("RAY_ADDRESS"), costs, without_token=without_ray_token) as executor:
        assembly.spread(executor, workers, costs)
        yield assembly


def _again(source: Path, output: Path, words: Mapping[str, Any]) -> str:
    """The command that goes on with a job: it must name all that the job was started with."""
    import shlex

    said = ["symmoe", "batch", "run", str(source), "-o", str(output)]
    for name, value in words.items():
        option = f"--{name.replace('_', '-')}"
        said += [option] if value is True else [] if value in (None, False) else [option, str(value)]
    return shlex.join([*said, "--resume"])
