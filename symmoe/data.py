"""Questions in a Ray Data `Dataset`, answered as one stage between any reader and any writer.

>>> import ray, symmoe.data
>>> asked = ray.data.read_parquet("questions/")
>>> symmoe.data.answer(asked, pool="starter", prompt="{{ question }}", workers=4).write_parquet("answers/")
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from symmoe.batch.job import in_turn
from symmoe.batch.lines import BadLine, GoodLine, LineReader
from symmoe.batch.output import COLUMNS, OWN, columns_of
from symmoe.batch.windows import LEAST, answering_windows
from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.deployments.executor import actors_beside_tasks
from symmoe.deployments.staging import on_cluster
from symmoe.deployments.worker import Build
from symmoe.pipeline import Ahead, Carried
from symmoe.pipeline import answer as answer_queries
from symmoe.rows.reading import Row
from symmoe.rows.shapes import Reading
from symmoe.types import Refusal, Trace

if TYPE_CHECKING:
    import pyarrow

_TOLD = {name: kind for name, kind in COLUMNS.items() if name not in ("id", "line")}
"""Our columns but those that tell rows of a file apart: rows of a data set have no order."""


def answer(
    dataset: Any,
    pool: str = "starter",
    prompt: str | None = None,
    *,
    prompt_column: str | None = None,
    system: str | None = None,
    k: int | None = None,
    seed: int = 0,
    workers: int = 1,
    window: int = LEAST,
    build: Build = Assembly,
) -> Any:
    """The `Dataset` with its own columns, and beside each row its `answer` and columns that begin with `symmoe_`.

    Rows are read as `symmoe batch run` reads them: as `prompt`, a Jinja template over the columns, or `prompt_column`
    says, else by the shape of their columns. A row that cannot be asked or answered has `symmoe_error_code` and
    `symmoe_error`, and no answer. Of a row with several turns or choices the answer is a JSON array.

    Engines live in `workers` actors, which share the cluster's CPUs or have the accelerators that the pool says. Each
    takes a `window` of rows at a time, asks every expert once in it and begins with the one that the window before
    ended with. Rows are cut and joined to blocks of that many, whatever blocks they come in, and each block goes to an
    actor that is free. What an actor or a machine was at when it was lost, Ray Data runs again; with a checkpoint in
    its `DataContext` a later run leaves out the rows that were written.

    Every machine needs symmoe, and the pool's files at the same paths. Raises `SymmoeError` for what is wrong with the
    pool or the reading, at once.
    """
    described = read_pool(pool)
    words: dict[str, Any] = {"prompt": prompt, "prompt_column": prompt_column, "system": system}
    Reading(**words)  # a template that is none is told of here
    # a reader may give all rows in one block (small Parquet files are read together), which one actor alone would take
    return dataset.repartition(target_num_rows_per_block=window, strict=True).map_batches(
        Answering,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_args=(described, words, k, seed, build),
        udf_modifying_row_count=False,
        **actors_beside_tasks(described, workers),
    )


class Answering:
    """What an actor of `answer` is: the pool's parts, and what one window passes on to the next."""

    def __init__(self, pool: Pool, reading: dict[str, Any], k: int | None, seed: int, build: Build) -> None:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        self._at_work = ExitStack()
        self._at_work.enter_context(answering_windows())
        self._assembly = on_cluster(build(pool))
        self._reader, self._seed = LineReader(pool, k, Reading(**reading)), seed
        self._carried = Carried(stop=False)

    def __call__(self, window: pyarrow.Table) -> pyarrow.Table:
        """Answer a window of rows."""
        lines = [self._line(number, row) for number, row in enumerate(window.to_pylist())]
        results = in_turn([line for line in lines if isinstance(line, GoodLine)], self._answer_together)
        return _beside(window, [columns_of(line, results.get(line.number, []))[1:] for line in lines])

    def _line(self, number: int, row: dict[str, Any]) -> GoodLine | BadLine:
        """A row as a line whose id is its place in the window, as without one of its own: those may come twice."""
        line = self._reader.line(number, Row(number=number, row=row))
        if not isinstance(line, GoodLine) or not line.named:
            return line
        queries = tuple(replace(query, id=f"{number}.{choice}") for choice, query in enumerate(line.queries))
        return replace(line, id=str(number), queries=queries, door="")

    def _answer_together(self, lines: Sequence[GoodLine], ahead: Ahead | None) -> list[list[Trace | Refusal]]:
        queries = [query for line in lines for query in line.queries]
        policies = [line.policy for line in lines for _ in line.queries]
        outcome = answer_queries(
            self._assembly.parts(), queries, policies, self._seed, ahead=ahead, carried=self._carried
        )
        each = iter(outcome.results)
        return [[next(each) for _ in line.queries] for line in lines]


def _beside(window: pyarrow.Table, results: Sequence[tuple[Any, dict[str, Any]]]) -> pyarrow.Table:
    """The window's own columns as they are, and each row's answer and what is told of it, of the same types always."""
    import pyarrow

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    window = window.select([name for name in window.column_names if not name.startswith(OWN)])
    answers = [json.dumps(answer) if isinstance(answer, list) else answer for answer, _ in results]
    answer_column = f"{OWN}answer" if "answer" in window.column_names else "answer"
    window = window.append_column(answer_column, pyarrow.array(answers, kinds[str]))
    for name, kind in _TOLD.items():
        values = [row[OWN + name] for _, row in results]
        window = window.append_column(OWN + name, pyarrow.array(values, kinds[kind]))
    return window
