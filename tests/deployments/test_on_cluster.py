"""`symmoe serve --address`: a service on a Ray cluster that was there before and stays when the service is gone."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import openai
import psutil
import pytest
from symmoe.deployments.serving import serving
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from symmoe.errors import JobError
from tests.cli.conftest import Symmoe
from tests.clusters import LOCAL, PATIENCE, Cluster, free_ports, ray_cluster, redis_server
from tests.conftest import echo_pool

ROOT = Path(__file__).parents[2]


def test_nobody_is_served_on_a_cluster_without_keys(tmp_path: Path) -> None:
    pool = read_pool(str(echo_pool(tmp_path)))
    with pytest.raises(JobError, match="reached from elsewhere") as raised, serving(pool, Settings(), address="h:1"):
        pass
    assert "--keys" in str(raised.value.hint)


def environment(own: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "REDIS_"))}
    return {**kept, **own}


@contextmanager
def cluster_of(folder: Path, **ray: str) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """A head with CPUs, as `ray start --head` starts it, and what it and commands find in their environment."""
    with redis_server() as (port, password):
        told = {
            "REDIS_URL": f"redis://:{password}@{LOCAL}:{port}/0",
            "SYMMOE_STATE": str(folder / "state"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            **ray,
        }
        with ray_cluster(**told) as cluster:
            cluster.start_head(cpus=2)
            yield cluster, told


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """One that asks for a token."""
    with cluster_of(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)) as found:
        yield found


def command(told: Mapping[str, str], *words: str) -> psutil.Popen:
    whole = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    pipe = subprocess.PIPE
    return psutil.Popen(whole, cwd=ROOT, env=environment(told), stdout=pipe, stderr=pipe, text=True)


def said(told: Mapping[str, str], *words: str, code: int = 0) -> str:
    with command(told, *words) as process:
        printed, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, error
    return str(printed or error)


@pytest.mark.slow
def test_it_is_served_there_with_keys_and_the_cluster_survives_it(
    cluster: tuple[Cluster, dict[str, str]], tmp_path: Path
) -> None:
    there, told = cluster
    (port,) = free_ports(1)
    tokenless = {name: value for name, value in told.items() if name != "RAY_AUTH_TOKEN"}
    words = ["serve", "--address", there.head, "--pool", str(echo_pool(tmp_path)), "--port", str(port)]
    assert "there are none" in said(told, *words, code=2)
    key = json.loads(said(told, "key", "create", "team", "--json"))["key"]
    assert "no Ray cluster answers" in said({**tokenless, "HOME": str(tmp_path)}, *words, code=2)
    for _ in range(2):  # the second time on what the first one left behind
        with command(told, *words) as process:
            assert "is ready at" in process.stdout.readline()
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=60)
            answer = client.chat.completions.create(model="symmoe/auto", messages=[{"role": "user", "content": "sums"}])
            assert answer.choices[0].message.content == "adder: sums"
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="none").models.list()
            assert "has an application 'symmoe' already" in said(told, *words, code=2)
            assert client.models.list().data
            process.terminate()
            _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "finishing open requests\n")
        assert there.nodes["head"].is_running()
        assert there.asked("/api/gcs_healthz").is_success
        assert there.status()["applications"] == {}


@pytest.mark.parametrize(
    ("words", "said_of_it"),
    [
        (["--address", "h:1"], "a service on the cluster at h:1 requires keys, and there are none"),
        (["--replicas", "2", "--least", "3"], "--least 3 is more than --replicas 2"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_started(
    symmoe_command: Symmoe, tmp_path: Path, words: list[str], said_of_it: str
) -> None:
    told = symmoe_command("serve", "--pool", echo_pool(tmp_path), *words)
    assert told.code == 2
    assert said_of_it in told.err
