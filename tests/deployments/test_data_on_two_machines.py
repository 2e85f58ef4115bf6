"""A hundred thousand rows through Ray Data on two machines: every row once, as a batch answers it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from symmoe.config import STATIC, TINY, read_pool
from tests.clusters import BIN, Cluster, ray_cluster
from tests.conftest import SKILLS, echo_pool

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ROWS, FILES = 100_000, 50
PROMPT = "{{ topic }} {{ number }}"
RUN_SECONDS = 900.0
DRIVER = """
import sys
import pyarrow.parquet, ray, symmoe.data

address, asked, pool, out = sys.argv[1:]
ray.init(address, log_to_driver=False)
rows = ray.data.read_parquet(asked, override_num_blocks={blocks})  # else files as small as these are read together
given = symmoe.data.answer(rows, pool, prompt={prompt!r}, workers=2)
for number, table in enumerate(given.iter_batches(batch_size=None, batch_format="pyarrow")):  # as they come
    pyarrow.parquet.write_table(table, f"{{out}}/{{number:05}}.parquet")
"""

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Echoes for experts, and a static embedder; beside it the folder of rows that are asked."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "asked").mkdir()
    for file in range(FILES):
        numbers = range(file * ROWS // FILES, (file + 1) * ROWS // FILES)
        table = pyarrow.table({"number": list(numbers), "topic": [SKILLS[number % len(SKILLS)] for number in numbers]})
        pyarrow.parquet.write_table(table, folder / "asked" / f"{file:03}.parquet")
    return echo_pool(folder, routing={"embedder": f"{STATIC}{read_pool(TINY).routing.embedder}"})


@pytest.fixture(scope="module")
def of_a_batch(pool: Path) -> tuple[dict[int, str], float]:
    """What `symmoe batch run` answers to each row, and its seconds."""
    out = pool.parent / "out.jsonl"
    words = ["batch", "run", str(pool.parent / "asked"), "-o", str(out), "--pool", str(pool), "--prompt", PROMPT]
    began = time.monotonic()
    subprocess.run([str(BIN / "symmoe"), *words, "--json"], check=True, capture_output=True, timeout=RUN_SECONDS)
    seconds = time.monotonic() - began
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    return {row["number"]: row["answer"] for row in rows}, seconds


def started(cluster: Cluster, pool: Path, out: Path) -> subprocess.Popen[str]:
    words = [f"{cluster.head}", str(pool.parent / "asked"), str(pool), str(out)]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(prompt=PROMPT, blocks=FILES), *words],
        env={**os.environ, **cluster.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def answers(out: Path) -> dict[int, str]:
    """The answer of each row; none may be there twice."""
    rows = pyarrow.parquet.read_table(out, columns=["number", "answer"]).to_pylist()
    found = {row["number"]: row["answer"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_row_is_answered_once_as_a_batch_answers_it(
    pool: Path,
    of_a_batch: tuple[dict[int, str], float],
    tmp_path: Path,
    record_property: Record,
) -> None:
    out, (expected, alone) = tmp_path / "answered", of_a_batch
    out.mkdir()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ray_cluster(**token, PYTHONPATH=str(ROOT), SYMMOE_STATE=str(tmp_path / "state")) as cluster:
        cluster.start_head()
        for machine in ("one", "two"):
            cluster.start_worker(machine, cpus=2)
        began = time.monotonic()
        job = started(cluster, pool, out)
        said, _ = job.communicate(timeout=RUN_SECONDS)
        assert job.returncode == 0, said
        record_property("seconds", round(time.monotonic() - began, 1))
    record_property("seconds of a batch", round(alone, 1))
    assert answers(out) == expected
    assert len(expected) == ROWS
