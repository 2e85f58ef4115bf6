from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.executor import RayExecutor

from symmoe.batch.job import BatchJob, run_batch
from symmoe.batch.progress import BatchResult
from symmoe.build import Assembly, fingerprint
from symmoe.config import read_pool
from symmoe.errors import EngineError
from symmoe.pipeline import Watch
from tests.batch.conftest import MemoryStore, content, ids, read_jsonl
from tests.cli.conftest import Symmoe
from tests.conftest import SKILLS, echo_pool
from tests.deployments.conftest import WORKERS
from tests.deployments.trouble import asked, troubled
from tests.fakes import NamingTagger

TOPICS = {"adder": "sums", "broken": "spanish"}
ROWS = [{"id": f"q{n}", "prompt": f"{topic} {n}"} for n, topic in enumerate([*TOPICS.values()] * 10)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(folder: Path, store: MemoryStore) -> BatchResult:
    pool = read_pool(str(folder / "pool.yaml"))
    job = BatchJob((str(folder / "in.jsonl"),), folder / "out.jsonl", pool, fingerprint(pool), k=1, seed=0, stop=True)
    assembly = Assembly(pool)
    assembly.tagger = NamingTagger(*SKILLS)  # type: ignore[assignment]
    with RayExecutor(pool, WORKERS, build=troubled) as executor:
        assembly.executor = executor
        return run_batch(job, assembly, store, resume=True, watch=Watch())


def test_a_batch_that_an_expert_stopped_goes_on_from_what_the_others_had_answered(ray_here: None, folder: Path) -> None:
    echo_pool(folder, tuple(TOPICS))
    write(folder / "in.jsonl", ROWS)
    store = MemoryStore()
    with pytest.raises(EngineError, match="'broken' failed 3 times"):
        run(folder, store)
    assert read_jsonl(folder / "out.jsonl") == []
    (folder / "mended").touch()
    result = run(folder, store)
    assert (result.answered, result.failed, result.resumed) == (20, 0, 10)
    rows = read_jsonl(folder / "out.jsonl")
    assert ids(rows) == [row["id"] for row in ROWS]
    told = [f"{expert}: {row['prompt']}" for expert, row in zip([*TOPICS] * 10, ROWS, strict=True)]
    assert [content(row) for row in rows] == told
    assert asked(folder) == dict.fromkeys(told, 1)


def test_the_command_answers_with_several_workers_what_it_answers_with_one_and_prints_nothing_of_rays(
    ray_here: None, symmoe_command: Symmoe, folder: Path
) -> None:
    pool = echo_pool(folder)
    source = write(folder / "in.jsonl", [{"id": f"q{n}", "prompt": f"{SKILLS[n % 3]} {n}"} for n in range(30)])
    answers = {}
    for workers in (1, 2):
        output = folder / f"out{workers}.jsonl"
        said = symmoe_command("batch", "run", source, "-o", output, "--pool", pool, "--workers", workers, "--json")
        assert said.code == 0, said.err
        assert said.json["answered"] == 30
        assert "ray" not in said.err
        answers[workers] = [(row["symmoe_id"], content(row)) for row in read_jsonl(output)]
    assert answers[1] == answers[2]
