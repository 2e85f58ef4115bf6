"""Batches on Ray Serve, whose processes are killed one after the other."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest

from tests.conftest import echo_pool
from tests.deployments.batches.conftest import ended, line, rows_of, start, texts, until
from tests.deployments.test_serve import free_port
from tests.stores import state_in

ROOT = Path(__file__).parents[3]
COUNT, HELD = 500, 50

pytestmark = pytest.mark.slow


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path) as folder:
        yield folder


def kill(process: psutil.Popen, deployment: str) -> None:
    """Kill the replica of a deployment with SIGKILL."""
    names = {child: " ".join(child.cmdline()) for child in process.children(recursive=True)}
    (found,) = [child for child, name in names.items() if name.startswith(f"ray::ServeReplica:symmoe:{deployment}")]
    found.kill()
    found.wait(10)


def text(number: int) -> str:
    return f"sums hold {number}" if number < HELD else f"sums {number}"


def rows() -> Iterator[dict[str, object]]:
    for number in range(COUNT):
        messages = [{"role": "user", "content": text(number)}]
        yield line(number, body={"model": "adder", "messages": messages})


def test_a_killed_replica_and_a_killed_ingress_cost_no_line(stored: Path, tmp_path: Path) -> None:
    pool, port = echo_pool(tmp_path, engine={"max_num_seqs": 256}), free_port()
    words = ["serve", "--pool", str(pool), "--port", str(port)]
    command = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    with psutil.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        try:
            assert "is ready at" in process.stdout.readline()
            url = f"http://127.0.0.1:{port}/v1"
            client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=20)
            batch = start(client, rows())
            until(client, batch, lambda found: found.request_counts.completed > COUNT / 5, 60)
            kill(process, "experts")
            until(client, batch, lambda found: found.request_counts.completed == COUNT - HELD, 90)
            kill(process, "ingress")
            time.sleep(1)  # for the proxy to notice: until then it answers for the dead one
            (tmp_path / "go").touch()
            over = ended(client, batch, 90)
            assert over.status == "completed"
            found = rows_of(client, over.output_file_id)
            assert [row["custom_id"] for row in found] == [f"line-{n}" for n in range(COUNT)]
            assert texts(found) == {f"line-{n}": f"adder: {text(n)}" for n in range(COUNT)}
            assert json.loads(over.model_dump_json())["request_counts"] == {
                "completed": COUNT,
                "failed": 0,
                "total": COUNT,
            }
        finally:
            process.terminate()
            process.communicate(timeout=60)
