"""Rows of a Ray Data data set are answered as those of a file are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest

import symmoe.data
from symmoe.batch.job import BatchJob, run_batch
from symmoe.build import Assembly, fingerprint
from symmoe.config import Pool, read_pool
from symmoe.data import Answering
from symmoe.errors import InputError
from symmoe.pipeline import Watch
from symmoe.rows.shapes import Reading
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


def test_a_data_set_on_two_actors_gets_what_a_batch_answers(ray_here: None, tmp_path: Path) -> None:
    import ray.data

    pool = echo_pool(tmp_path)
    asked = ray.data.from_items(ROWS, override_num_blocks=5)
    given = symmoe.data.answer(asked, str(pool), prompt=TEXT, workers=2, window=16, build=named)
    assert sorted(given.take_all(), key=lambda row: row["number"]) == as_in_a_file(pool)


def test_a_template_that_is_none_is_told_of_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Jinja template"):
        symmoe.data.answer(None, str(echo_pool(tmp_path)), prompt="{{")
