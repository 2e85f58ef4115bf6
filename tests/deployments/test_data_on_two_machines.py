"""Rows of Parquet through Ray Data on two machines: every row once, as a batch answers it, whatever is lost."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil
import pyarrow
import pyarrow.parquet
import pytest

from symmoe.config import STATIC, TINY, read_pool
from tests.clusters import BIN, Cluster, ray_cluster
from tests.conftest import SKILLS, echo_pool

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FILES = 10
MACHINES = ("one", "two")
PROMPT = "{{ topic }} {{ number }}"
RUN_SECONDS = 900.0
DRIVER = """
import sys
import pyarrow.parquet, ray, symmoe.data

address, asked, pool, out, window = sys.argv[1:]
ray.init(address, log_to_driver=False)
given = symmoe.data.answer(ray.data.read_parquet(asked), pool, prompt={prompt!r}, workers=2, window=int(window))
for number, table in enumerate(given.iter_batches(batch_size=None, batch_format="pyarrow")):  # as they come
    pyarrow.parquet.write_table(table, f"{{out}}/{{number:05}}.parquet")
    print("rows", table.num_rows, flush=True)
"""

Record = Callable[[str, object], None]


def asked_of(folder: Path, rows: int) -> Path:
    """A pool of echoes with a static embedder; beside it the folder of rows that are asked, in so many small files."""
    (folder / "asked").mkdir()
    for file in range(FILES):
        numbers = range(file * rows // FILES, (file + 1) * rows // FILES)
        table = pyarrow.table({"number": list(numbers), "topic": [SKILLS[number % len(SKILLS)] for number in numbers]})
        pyarrow.parquet.write_table(table, folder / "asked" / f"{file:03}.parquet")
    return echo_pool(folder, routing={"embedder": f"{STATIC}{read_pool(TINY).routing.embedder}"})


def of_a_batch(pool: Path) -> dict[int, str]:
    """What `symmoe batch run` answers to each row."""
    out = pool.parent / "out.jsonl"
    words = ["batch", "run", str(pool.parent / "asked"), "-o", str(out), "--pool", str(pool), "--prompt", PROMPT]
    subprocess.run([str(BIN / "symmoe"), *words, "--json"], check=True, capture_output=True, timeout=RUN_SECONDS)
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    return {row["number"]: row["answer"] for row in rows}


def answers(out: Path) -> dict[int, str]:
    """The answer of each row; none may be there twice."""
    rows = pyarrow.parquet.read_table(out, columns=["number", "answer"]).to_pylist()
    found = {row["number"]: row["answer"] for row in rows}
    assert len(found) == len(rows)
    return found


@contextmanager
def two_machines(folder: Path) -> Iterator[Cluster]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ray_cluster(**token, PYTHONPATH=str(ROOT), SYMMOE_STATE=str(folder / "state")) as cluster:
        cluster.start_head()
        for machine in MACHINES:
            cluster.start_worker(machine, cpus=2)
        yield cluster


@contextmanager
def answering(cluster: Cluster, pool: Path, window: int) -> Iterator[tuple[Path, Iterator[int]]]:
    """Where a driver writes what it is given, and the number of rows of each block as it is written; it ends well."""
    out = pool.parent / "answered"
    out.mkdir()
    words = [cluster.head, str(pool.parent / "asked"), str(pool), str(out), str(window)]
    said = pool.parent / "driver.log"
    with (
        said.open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", DRIVER.format(prompt=PROMPT), *words],
            env={**os.environ, **cluster.environment, "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1"},  # see docs/batch.md
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as driver,
    ):
        assert driver.stdout is not None
        try:
            yield out, (int(line.split()[1]) for line in driver.stdout if line.startswith("rows "))
            assert driver.wait(RUN_SECONDS) == 0, said.read_text()[-4000:]
        finally:
            driver.kill()


def actors(cluster: Cluster, machine: str) -> list[psutil.Process]:
    """Those of ours on a machine: Ray names its processes after what they run."""
    found = []
    for each in cluster.processes(machine):
        try:
            found += [each] if any("Answering" in word for word in each.cmdline()) else []
        except psutil.Error:  # it has just ended
            continue
    return found


def test_a_hundred_thousand_rows_are_dealt_to_both_actors(tmp_path: Path, record_property: Record) -> None:
    pool = asked_of(tmp_path, 100_000)
    began = time.monotonic()
    expected = of_a_batch(pool)
    record_property("seconds of a batch", round(time.monotonic() - began, 1))
    with two_machines(tmp_path) as cluster:
        began = time.monotonic()
        with answering(cluster, pool, window=1024) as (out, blocks):
            sizes = [next(blocks)]
            record_property("seconds to the first rows", round(time.monotonic() - began, 1))
            sizes += islice(blocks, 49)
            assert sum(len(actors(cluster, machine)) for machine in MACHINES) == 2
            sizes += blocks
        record_property("seconds", round(time.monotonic() - began, 1))
    assert max(sizes) == 1024
    assert answers(out) == expected
    assert len(expected) == 100_000


def test_every_row_is_answered_once_where_an_actor_and_then_a_machine_are_lost(tmp_path: Path) -> None:
    pool = asked_of(tmp_path, 20_000)
    with two_machines(tmp_path) as cluster, answering(cluster, pool, window=256) as (out, blocks):
        there = next(blocks)
        next(each for machine in MACHINES for each in actors(cluster, machine)).kill()
        there += sum(islice(blocks, 10))
        cluster.kill(next(machine for machine in MACHINES if actors(cluster, machine)))
        assert there < 10_000  # most were still to be answered
        assert there + sum(blocks) == 20_000
    assert answers(out) == of_a_batch(pool)
