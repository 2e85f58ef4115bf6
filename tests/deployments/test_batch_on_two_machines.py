"""A batch over unlike experts on real engines of two machines: as with one worker, and one of each kind is lost."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file, save_file

from symmoe.bench.unlike import ARCHITECTURES, random_model
from symmoe.build import Assembly
from symmoe.config import read_pool
from tests.clusters import BIN, LOCAL, Cluster, ray_cluster, redis_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.engine]
ROOT = Path(__file__).parents[2]
LINES = 8
"""Of each expert."""
RUN_SECONDS = 400.0

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experts of two shapes with small random weights, whose files lie in a folder that machines share."""
    folder, tiny = tmp_path_factory.mktemp("shared"), read_pool("tiny")
    words = str(Assembly(tiny).weights("generalist").model)
    for name in ARCHITECTURES:
        random_model(name, words, folder / name)
    shutil.copytree(folder / "qwen3", folder / "sibling")
    for file in (folder / "sibling").glob("*.safetensors"):  # of the same shape: it is swapped in
        weights = {name: tensor.flip(0).contiguous() for name, tensor in load_file(file).items()}
        save_file(weights, file, {"format": "pt"})
    experts = [{"name": name, "model": f"./{name}"} for name in (*ARCHITECTURES, "sibling")]
    described = {
        "name": "unlike",
        # one prompt at a time: what shares a step with it moves ties
        "engine": {"kind": "vllm", "max_model_len": 256, "max_num_seqs": 1, "kv_cache_gib": 0.25},
        "sampling": {"max_tokens": 64},
        "routing": {"taxonomy": "tiny", "fallback": "qwen3"},
        "experts": experts,
    }
    (folder / "pool.yaml").write_text(yaml.safe_dump(described))
    lines = [line(expert["name"], number) for number in range(LINES) for expert in experts]
    (folder / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder / "pool.yaml"


def line(expert: str, number: int) -> dict[str, Any]:
    question = f"Write {number + 3} as a Roman numeral."
    body = {"model": expert, "messages": [{"role": "user", "content": question}]}
    return {"custom_id": f"{expert} {number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, str]]:
    """What machines and commands find in their environment."""
    with redis_server() as (port, password):
        yield {
            "REDIS_URL": f"redis://:{password}@{LOCAL}:{port}/0",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }


@pytest.fixture
def cluster(told: Mapping[str, str], pool: Path) -> Iterator[Cluster]:
    """A head without CPUs and two machines with two each, in whose page cache the models are not."""
    with ray_cluster(**told) as made:
        made.start_head()
        made.start_worker("one", cpus=2)
        made.start_worker("two", cpus=2)
        for file in pool.parent.glob("*/*.safetensors"):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        yield made


class Run(psutil.Popen):
    """`symmoe batch run` on all lines; `workers` are those of the cluster at `RAY_ADDRESS`."""

    def __init__(self, pool: Path, out: Path, environment: Mapping[str, str], workers: int = 1) -> None:
        self.out = out
        words = ["batch", "run", str(pool.parent / "in.jsonl"), "-o", str(out), "--pool", str(pool), "--json"]
        super().__init__(
            [str(BIN / "symmoe"), *words, "--workers", str(workers)],
            env={**os.environ, **environment, "SYMMOE_STATE": str(out.parent / "state")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def report(self) -> dict[str, Any]:
        printed, said = self.communicate(timeout=RUN_SECONDS)
        assert self.returncode == 0, (printed, said)
        return dict(json.loads(printed))

    def answers(self) -> dict[str, str]:
        rows = [json.loads(row) for row in self.out.read_text().splitlines()]
        found = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}
        assert len(found) == len(rows)
        return found


@pytest.fixture(scope="module")
def alone(pool: Path, told: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one worker answers."""
    run = Run(pool, tmp_path_factory.mktemp("alone") / "out.jsonl", told)
    run.report()
    return run.answers()


def at_work(cluster: Cluster, name: str) -> list[psutil.Process]:
    """The workers of a machine that generate: Ray names its processes after what they run."""
    found = []
    for each in cluster.processes(name):
        with suppress(psutil.Error):  # it has just ended
            found += [each] if any("ray::Worker.generate" in word for word in each.cmdline()) else []
    return found


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_of_two_machines_answer_as_one_does(
    workers: int, cluster: Cluster, pool: Path, alone: dict[str, str], tmp_path: Path, record_property: Record
) -> None:
    run = Run(pool, tmp_path / "out.jsonl", {**cluster.environment, "RAY_ADDRESS": cluster.head}, workers)
    report = run.report()
    record_property("loads", report["loads"])
    assert run.answers() == alone


@pytest.mark.parametrize("lost", ["a worker", "a machine"])
def test_what_is_lost_in_the_middle_costs_no_line_and_no_answer(
    lost: str, cluster: Cluster, pool: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    run = Run(pool, tmp_path / "out.jsonl", {**cluster.environment, "RAY_ADDRESS": cluster.head}, 2)
    (worker,) = wait_for(lambda: at_work(cluster, "two"), "an engine at work there", RUN_SECONDS)
    if lost == "a worker":
        worker.send_signal(signal.SIGKILL)
    else:
        cluster.kill("two")
    run.report()
    assert run.answers() == alone
