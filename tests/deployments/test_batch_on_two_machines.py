"""A batch of real engines on two machines of a cluster, of which one is lost."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from symmoe.build import Assembly
from symmoe.config import read_pool
from tests.clusters import BIN, LOCAL, Cluster, ray_cluster, redis_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.engine]
ROOT = Path(__file__).parents[2]
LINES = 60


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head without CPUs and two machines with one each; the model's files are not in the page cache."""
    with redis_server() as (port, password):
        told = {
            "REDIS_URL": f"redis://:{password}@{LOCAL}:{port}/0",
            "SYMMOE_STATE": str(tmp_path / "state"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        with ray_cluster(**told) as made:
            made.start_head()
            made.start_worker("one", cpus=1)
            made.start_worker("two", cpus=1)
            wait_for(lambda: len(made.asked("/nodes?view=summary").json()["data"]["summary"]) == 3, "two machines")
            for file in Path(Assembly(read_pool("tiny")).weights("generalist").model).glob("*.safetensors"):
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            yield made


def batch(folder: Path, cluster: Cluster | None, *words: str) -> psutil.Popen:
    source = folder / "in.jsonl"
    prompts = (
        "Spell the call sign Q T {} in the radio alphabet.",
        "What is 3 plus {}?",
        "Write {} as a Roman numeral.",
    )
    rows = [
        {"id": str(n), "prompt": prompts[n % 3].format("ABCDEFGHIJ"[n % 10] if n % 3 == 0 else n)} for n in range(LINES)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = dict(os.environ) if cluster is None else {**cluster.environment, "RAY_ADDRESS": cluster.head}
    environment |= {"SYMMOE_STATE": str(folder / "state"), "SYMMOE_POOL": "tiny"}
    whole = [sys.executable, "-m", "cli.main", "batch", "run", str(source), *words]
    if (BIN / "symmoe").exists():
        whole[:3] = [str(BIN / "symmoe")]
    return psutil.Popen(whole, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def generating(cluster: Cluster, name: str) -> bool:
    """Whether an engine of a machine has been given calls: Ray names its processes after what they run."""
    for each in cluster.processes(name):
        with suppress(psutil.Error):  # it has just ended
            if any("ray::Worker.generate" in word for word in each.cmdline()):
                return True
    return False


def answers(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == LINES
    return {
        row.get("custom_id", row.get("id")): row["answer"]
        if "answer" in row
        else row["response"]["body"]["choices"][0]["message"]["content"]
        for row in rows
    }


def test_a_machine_lost_in_the_middle_costs_no_line_and_no_answer(cluster: Cluster, tmp_path: Path) -> None:
    alone, spread = tmp_path / "alone.jsonl", tmp_path / "spread.jsonl"
    with batch(tmp_path, None, "-o", str(alone)) as run:
        said = run.communicate(timeout=600)[0]
    assert run.returncode == 0, said
    with batch(tmp_path, cluster, "-o", str(spread), "--workers", "2") as run:
        wait_for(lambda: generating(cluster, "two"), "an engine at work there", 240)
        cluster.kill("two")
        said = run.communicate(timeout=600)[0]
    assert run.returncode == 0, said
    assert answers(spread) == answers(alone)
