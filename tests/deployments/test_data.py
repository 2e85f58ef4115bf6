"""Rows of a Ray Data data set are answered as those of a file are."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from ray.exceptions import RayTaskError
from symmoe.deployments.worker import Build

import symmoe.data
from symmoe.batch.job import BatchJob, run_batch
from symmoe.build import Assembly, fingerprint
from symmoe.config import Pool, read_pool
from symmoe.data import Answering
from symmoe.errors import InputError
from symmoe.pipeline import Watch
from symmoe.rows.shapes import Reading
from symmoe.types import Plan
from tests.batch.conftest import MemoryStore, read_jsonl
from tests.conftest import SKILLS, echo_pool
from tests.deployments.trouble import lines, troubled
from tests.fakes import NamingTagger

TEXT = "{{ topic }} {{ number }}"
ROWS = [{"topic": SKILLS[n % 3], "number": n, "answer": f"own {n}"} for n in range(40)]


def named(pool: Pool) -> Assembly:
    """Parts that keep a record of what is asked, and take a question's first word for its skill."""
    assembly = troubled(pool)
    assembly.tagger = NamingTagger(*SKILLS)  # type: ignore[assignment]
    return assembly


def of_a_file(pool: Path, rows: list[dict[str, Any]], prompt: str) -> list[dict[str, Any]]:
    source, output, described = pool.parent / "in.jsonl", pool.parent / "out.jsonl", read_pool(str(pool))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = BatchJob((str(source),), output, described, fingerprint(described), k=None, seed=0, reading=Reading(prompt))
    run_batch(job, named(described), MemoryStore(), resume=False, watch=Watch())
    return read_jsonl(output)


def answered(pool: Path, rows: list[dict[str, Any]], window: int, **reading: str) -> list[dict[str, Any]]:
    """What an actor gives for windows of rows, one after the other."""
    described = read_pool(str(pool))
    actor = Answering(described, reading, None, 0, named)
    tables = [pyarrow.Table.from_pylist(rows[begin : begin + window]) for begin in range(0, len(rows), window)]
    return [row for table in tables for row in actor(table).to_pylist()]


def as_in_a_file(pool: Path) -> list[dict[str, Any]]:
    left_out = ("symmoe_id", "symmoe_line")
    return [{name: value for name, value in row.items() if name not in left_out} for row in of_a_file(pool, ROWS, TEXT)]


def test_every_row_keeps_its_columns_and_gets_what_a_batch_answers(tmp_path: Path) -> None:
    pool = echo_pool(tmp_path)
    given = answered(pool, ROWS, window=16, prompt=TEXT)
    assert given == as_in_a_file(pool)
    assert given[0]["symmoe_answer"] == "adder: sums 0"
    assert {name: given[0][name] for name in ROWS[0]} == ROWS[0]


def test_an_expert_is_asked_once_a_window_and_the_next_one_begins_with_the_last(tmp_path: Path) -> None:
    answered(echo_pool(tmp_path), ROWS, window=20, prompt=TEXT)
    asked = [line.split()[1] for line in lines(tmp_path)]
    changes = [expert for expert, before in zip(asked, ["", *asked], strict=False) if expert != before]
    assert changes == ["adder:", "speaker:", "sorter:", "speaker:", "adder:"]


def test_a_row_that_cannot_be_asked_says_why(tmp_path: Path) -> None:
    rows = [{"number": n, "text": "sums"[n:]} for n in (0, 4)]
    good, bad = answered(echo_pool(tmp_path), rows, window=2, prompt_column="text")
    assert (good["answer"], good["symmoe_error"]) == ("adder: sums", None)
    assert (bad["answer"], bad["symmoe_error_code"]) == (None, "invalid_value")


def test_rows_whose_ids_come_twice_or_are_others_places_each_get_their_own_answer(tmp_path: Path) -> None:
    rows = [{"id": ident, "text": f"sums {n}"} for n, ident in enumerate(["1", None, "1", "0.0", None])]
    given = answered(echo_pool(tmp_path), rows, window=5, prompt_column="text")
    assert [row["answer"] for row in given] == [f"adder: sums {n}" for n in range(5)]
    assert [row["id"] for row in given] == [row["id"] for row in rows]


def test_a_data_set_on_two_actors_gets_what_a_batch_answers(ray_here: None, tmp_path: Path) -> None:
    import ray.data

    pool = echo_pool(tmp_path)
    asked = ray.data.from_items(ROWS, override_num_blocks=5)
    given = symmoe.data.answer(asked, str(pool), prompt=TEXT, workers=2, window=16, build=named)
    assert sorted(given.take_all(), key=lambda row: row["number"]) == as_in_a_file(pool)


def breaking(pool: Pool) -> Assembly:
    """Parts that break at their second window, once Ray Data has noted that the first is written."""
    assembly = named(pool)
    run, windows = assembly.executor.run, count()

    def run_or_break(plan: Plan) -> Iterator[Any]:
        if next(windows) == 0:
            return run(plan)
        latest = time.monotonic() + 120
        while all(".pending" in path.name for path in (pool.root / "done").glob("*.parquet")):
            assert time.monotonic() < latest
            time.sleep(0.05)
        raise RuntimeError("it broke")

    assembly.executor.run = run_or_break  # type: ignore[method-assign]
    return assembly


def test_what_ray_data_s_own_checkpoint_has_is_not_asked_again(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data
    from pyarrow.dataset import dataset
    from pyarrow.parquet import write_table
    from ray.data.checkpoint import CheckpointConfig

    pool = echo_pool(tmp_path)
    (tmp_path / "rows").mkdir()
    for place in range(4):
        rows = [{"id": n, "topic": SKILLS[n % 3], "number": n} for n in range(10 * place, 10 * place + 10)]
        write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows" / f"{place}.parquet")
    done = CheckpointConfig(id_column="id", checkpoint_path=str(tmp_path / "done"))
    monkeypatch.setattr(ray.data.DataContext.get_current(), "checkpoint_config", done)

    def answer(build: Build) -> None:
        asked = ray.data.read_parquet(str(tmp_path / "rows"))
        given = symmoe.data.answer(asked, str(pool), prompt=TEXT, window=8, build=build)
        given.write_parquet(str(tmp_path / "out"))

    def written() -> list[int]:
        return sorted(row["id"] for row in dataset(str(tmp_path / "out")).to_table(["id"]).to_pylist())

    with pytest.raises(RayTaskError, match="it broke"):
        answer(breaking)
    assert (len(written()), len(lines(tmp_path))) == (8, 8)
    answer(named)
    assert written() == list(range(40))
    assert len(lines(tmp_path)) == 40


def test_a_template_that_is_none_is_told_of_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Jinja template"):
        symmoe.data.answer(None, str(echo_pool(tmp_path)), prompt="{{")
