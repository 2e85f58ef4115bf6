"""`symmoe records`: recorded answers of experts, on which `symmoe replay` tries policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from symmoe.records.files import Records

app = typer.Typer(help="Import, check and split recorded answers.", no_args_is_help=True)
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Write the records to this folder.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A directory of records.")]


@app.command("import")
def import_batch(
    asked: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="The input of the batch.")],
    answered: Annotated[
        list[Path],
        typer.Argument(metavar="TRACES…", help="The traces of the batch, or output files of a service with traces."),
    ],
    out: Out,
    pool: options.Pool = "starter",
    suite: Annotated[
        Path | None, typer.Option("--suite", help="Known answers: a suite with the ids of the lines.")
    ] = None,
    prompt: options.Prompt = None,
    prompt_column: options.PromptColumn = None,
    id_column: options.IdColumn = None,
    system: options.System = None,
    json: options.Json = False,
) -> None:
    """Make records of the questions of a batch and its experts' answers.

    Give the pool and the options for reading rows that the batch had. Lines that could not be asked are left out, and
    of lines with the same text only the first is kept.
    """
    from symmoe.batch.lines import GoodLine, LineReader
    from symmoe.config import read_pool
    from symmoe.questions.suites import read_suite
    from symmoe.records.importing import from_traces, read_traces

    _check_free(out)
    lines = LineReader(read_pool(pool), reading=options.reading(prompt, prompt_column, id_column, system)).read(asked)
    messages = {line.id: line.queries[0].messages for line in lines if isinstance(line, GoodLine)}
    known = read_suite(suite) if suite else []
    traces = (trace for path in answered for trace in read_traces(path))
    records = from_traces(messages, traces, known, str(answered[0]))
    _show_facts(_write(records, out, f"{asked.name}, {answered[0].name}"), json)


@app.command("import-mmlu-pro")
def import_mmlu_pro(
    data: Annotated[Path, typer.Option("--data", help="A folder with questions.jsonl.gz and MODEL.jsonl.gz files.")],
    out: Out,
    letters: Annotated[
        bool, typer.Option("--letters", help="Include models of which only the chosen letter is known.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Make records of the public answers of many models to MMLU-Pro, and a pool file that answers from them."""
    from symmoe.records.importing import from_mmlu_pro

    from .render import working

    _check_free(out)
    with working("reading"):
        records = from_mmlu_pro(data, letters)
    _show_facts(_write(records, out, "MMLU-Pro"), json)


@app.command("check")
def check(directory: Directory, json: options.Json = False) -> None:
    """Read and check records, and show how many answers they have."""
    from symmoe.records.files import read_records

    from .render import show, show_json

    facts = _facts(read_records(directory))
    if json:
        show_json(facts)
    else:
        show(_table(facts))


@app.command("split")
def split(
    directory: Directory,
    first: Annotated[Path, typer.Option("--first", metavar="DIR", help="Write the first part to this folder.")],
    rest: Annotated[Path, typer.Option("--rest", metavar="DIR", help="Write the other questions to this folder.")],
    share: Annotated[
        float, typer.Option("--share", min=0.01, max=0.99, help="The first part's share, drawn at random.")
    ] = 0.5,
    families: Annotated[
        list[str] | None, typer.Option("--family", help="Instead: all but this family in the first part; repeatable.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Divide records into two parts, one to learn from and one to judge on."""
    from symmoe.errors import RecordsError
    from symmoe.records.files import read_records

    from .render import show_json

    if first.resolve() == rest.resolve():
        raise RecordsError(f"{rest}: both parts would be written there", hint="name two folders")
    for folder in (first, rest):
        _check_free(folder)
    parts = read_records(directory).divided(share, seed, families or ())
    kept = [_write(part, where, f"part of {directory.name}") for part, where in zip(parts, (first, rest), strict=True)]
    if json:
        show_json(kept)
        return
    for facts in kept:
        _show_facts(facts, json)


def _check_free(folder: Path) -> None:
    """Raise `RecordsError` if a folder holds records, which would be lost."""
    from symmoe.errors import RecordsError
    from symmoe.records.files import MANIFEST

    if (folder / MANIFEST).exists():
        raise RecordsError(f"{folder}: holds records already", hint="name another folder, or remove it first")


def _write(records: Records, out: Path, source: str) -> dict[str, Any]:
    """Write records and a pool file that answers from them; returns their facts."""
    from symmoe.records.files import write_records
    from symmoe.records.importing import write_pool

    from .render import working

    with working("writing"):
        write_records(out, records, source)
        return {"out": str(out), "pool": str(write_pool(out, records)), **_facts(records)}


def _show_facts(facts: dict[str, Any], json: bool) -> None:
    from .render import show, show_json

    if json:
        show_json(facts)
    else:
        show(_table(facts), f"in {facts['out']}; a pool that answers from them: {facts['pool']}")


def _facts(records: Records) -> dict[str, Any]:
    """Counts of the questions, and of each expert's answers: all, and those with tokens, cost and seconds."""
    figures = ("completion_tokens", "cost", "seconds")
    return {
        "questions": len(records.questions),
        "known": sum(question.answer is not None for question in records.questions),
        "experts": {
            expert: {"answers": len(given)}
            | {name: sum(getattr(a, name) is not None for a in given.values()) for name in figures}
            for expert, given in records.answers.items()
        },
    }


def _table(facts: dict[str, Any]) -> Any:
    from .render import table

    rows = [(expert, *counts.values()) for expert, counts in facts["experts"].items()]
    columns = ("expert", "answers", "with tokens", "with cost", "with seconds")
    title = f"{facts['questions']} recorded questions, {facts['known']} with a known answer"
    return table(title, columns, rows, right=range(1, 5))
