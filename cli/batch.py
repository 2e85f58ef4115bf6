"""`symmoe batch`: files of questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.batch.job import BatchJob
    from symmoe.build import Assembly
    from symmoe.config import Pool
    from symmoe.protocols import Store

app = typer.Typer(help="Answer files of questions.", no_args_is_help=True)
PARTLY_DONE = 3


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
    without_ray_token: options.WithoutRayToken = False,
    json: options.Json = False,
) -> None:
    """Answer every line of a file, in order; traces go beside the output.

    Exit code 3 says that some lines could not be answered: the output names each by its line number.
    """
    from symmoe.batch.job import BatchJob, run_batch
    from symmoe.batch.lock import job_lock
    from symmoe.build import fingerprint
    from symmoe.errors import JobError
    from symmoe.store import open_store

    from .render import show, show_json, tell, watching

    if not source.is_file():
        raise JobError(f"{source}: no such file")
    described = options.with_quality(options.ready(pool), quality)
    job = BatchJob(source, output, described, fingerprint(described), k, seed, explain)
    store = open_store()
    try:
        with (
            job_lock(job.name),
            watching("answering") as watch,
            _assembly(described, workers, store, without_ray_token) as assembly,
        ):
            result = run_batch(job, assembly, store, resume, watch)
    except KeyboardInterrupt:
        tell(f"stopped; nothing is lost. Go on with: {_again(job, pool, quality, workers, without_ray_token)}")
        raise typer.Exit(130) from None
    summary = {
        "output": str(output),
        "trace": str(job.trace),
        "answered": result.answered,
        "failed": result.failed,
        "candidates_resumed": result.resumed,
        "ignored": dict(result.ignored),
        "seconds": {
            stage: round(spent, 3) for stage, spent in (result.outcome.seconds if result.outcome else {}).items()
        },
        "loads": [[load.expert, load.lane] for load in (result.outcome.loads if result.outcome else ())],
    }
    if json:
        show_json(summary)
    elif result.outcome is None:
        show(f"already finished: {result.answered} answered, {result.failed} failed, in {output}")
    else:
        show(f"{result.answered} answered, {result.failed} failed, in {output}; evidence in {job.trace}")
    if result.ignored and not json:
        named = ", ".join(f"{name} ({lines} lines)" for name, lines in sorted(result.ignored.items()))
        tell(f"fields without effect: {named}")
    if result.failed:
        raise typer.Exit(PARTLY_DONE)


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


def _again(job: BatchJob, pool: str, quality: float | None, workers: int, without_ray_token: bool) -> str:
    """The command that goes on with a job: it must name all that the job was started with."""
    import shlex

    words = ["symmoe", "batch", "run", str(job.source), "-o", str(job.output), "--pool", pool]
    words += ["--k", str(job.k), "--seed", str(job.seed), *(["--explain"] if job.explain else [])]
    words += ["--quality", str(quality)] if quality is not None else []
    words += ["--workers", str(workers)] if workers > 1 else []
    words += ["--without-ray-token"] if without_ray_token else []
    return shlex.join([*words, "--resume"])
