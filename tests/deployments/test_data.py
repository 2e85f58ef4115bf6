"""Rows of a Ray Data data set are answered as those of a file are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import symmoe.data
from symmoe.batch.job import BatchJob, run_batch
from symmoe.build import Assembly, fingerprint
from symmoe.config import Pool, read_pool
from symmoe.errors import InputError
from symmoe.pipeline import Watch
from tests.batch.conftest import MemoryStore, read_jsonl
from tests.conftest import SKILLS, echo_pool
from tests.deployments.trouble import lines, troubled
from tests.fakes import NamingTagger

pytest.importorskip("pandas")
TEXT = "{{ topic }} {{ number }}"
ROWS = [{"topic": SKILLS[n % 3], "number": n, "answer": f"own {n}"} for n in range(40)]


def named(pool: Pool) -> Assembly:
    """Parts that keep a record of what is asked, and take a question's first word for its skill."""
    assembly = troubled(pool)
    assembly.tagger = NamingTagger(*SKILLS)  # type: ignore[assignment]
    return assembly


def of_a_file(pool: Path, rows: list[dict[str, Any]], prompt: str) -> list[dict[str, Any]]:
    from symmoe.rows.shapes import Reading

    source, output, described = pool.parent / "in.jsonl", pool.parent / "out.jsonl", read_pool(str(pool))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = BatchJob((str(source),), output, described, fingerprint(described), k=None, seed=0, reading=Reading(prompt))
    run_batch(job, named(described), MemoryStore(), resume=False, watch=Watch())
    return read_jsonl(output)


def answered(pool: Path, rows: list[dict[str, Any]], **words: Any) -> list[dict[str, Any]]:
    import ray

    asked = ray.data.from_items(rows, override_num_blocks=5)
    given = symmoe.data.answer(asked, str(pool), build=named, **words)
    return sorted(given.take_all(), key=lambda row: row["number"])


def test_every_row_keeps_its_columns_and_gets_what_a_batch_answers(ray_here: None, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path)
    given = answered(pool, ROWS, prompt=TEXT, workers=2, window=16)
    told = of_a_file(pool, ROWS, TEXT)
    left_out = ("symmoe_id", "symmoe_line")
    assert given == [{name: value for name, value in row.items() if name not in left_out} for row in told]
    assert given[0]["symmoe_answer"] == "adder: sums 0"
    assert {name: given[0][name] for name in ROWS[0]} == ROWS[0]


def test_an_expert_is_asked_once_a_window_and_the_next_one_begins_with_the_last(ray_here: None, tmp_path: Path) -> None:
    pool = echo_pool(tmp_path)
    answered(pool, ROWS, prompt=TEXT, window=20)
    asked = [line.split()[1] for line in lines(tmp_path)]
    changes = [expert for expert, before in zip(asked, ["", *asked], strict=False) if expert != before]
    assert len(changes) == 2 * len(SKILLS) - 1


def test_a_row_that_cannot_be_asked_says_why(ray_here: None, tmp_path: Path) -> None:
    *_, row = answered(echo_pool(tmp_path), [{"number": n, "text": "sums"[n:]} for n in (0, 4)], prompt_column="text")
    assert row["answer"] is None
    assert row["symmoe_error_code"]


def test_a_template_that_is_none_is_told_of_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Jinja template"):
        symmoe.data.answer(None, str(echo_pool(tmp_path)), prompt="{{")
