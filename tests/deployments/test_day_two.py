"""What operators do on the second day, on two raylets: bounds change, an expert comes, a node goes in mid-stream."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests.clusters import LOCAL, Cluster, ray_cluster, redis_server, wait_for
from tests.conftest import echo_pool
from tests.deployments.test_head_loss import replicas


def serve_config(cluster: Cluster, pool: Path, most: int) -> dict[str, Any]:
    scaling = {"min_replicas": 2, "initial_replicas": 2, "max_replicas": most, "target_ongoing_requests": 64}
    application = {
        "name": "symmoe",
        "route_prefix": "/",
        "import_path": "tests.deployments.held:held_app",
        "args": {"pool": str(pool)},
        "deployments": [
            {"name": "ingress", "num_replicas": 2, "max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 1}},
            {"name": "experts", "max_replicas_per_node": 1, "autoscaling_config": scaling},
        ],
    }
    http = {"host": LOCAL, "port": cluster.head_port}
    return {"proxy_location": "EveryNode", "http_options": http, "applications": [application]}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return echo_pool(tmp_path)


@pytest.fixture
def cluster(tmp_path: Path, pool: Path) -> Iterator[Cluster]:
    """A head and two workers, an expert replica on each."""
    with redis_server() as (port, password):
        told = {
            "REDIS_URL": f"redis://:{password}@{LOCAL}:{port}/0",
            "SYMMOE_FILES": str(tmp_path / "files"),
            "SYMMOE_STATE": str(tmp_path / "state"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "60",
        }
        with ray_cluster(**told) as cluster:
            cluster.start_head()
            cluster.start_worker("one", 2)
            cluster.start_worker("two", 2)
            cluster.deploy(serve_config(cluster, pool, 2))
            cluster.wait_until_running(240)
            yield cluster


@pytest.mark.slow
def test_bounds_change_experts_come_and_a_node_goes_and_no_request_fails(
    cluster: Cluster, pool: Path, tmp_path: Path
) -> None:
    client = openai.OpenAI(
        base_url=f"http://{LOCAL}:{cluster.serve_port}/v1", api_key="none", timeout=60, max_retries=0
    )
    failed: list[Exception] = []
    over = threading.Event()

    def ask(model: str, text: str) -> str | None:
        messages: list[Any] = [{"role": "user", "content": text}]
        return client.chat.completions.create(model=model, messages=messages).choices[0].message.content

    def keep_asking() -> None:
        while not over.is_set():
            try:
                assert ask("adder", "sums") == "adder: sums"
            except Exception as error:
                failed.append(error)

    assert ask("adder", "sums 1") == "adder: sums 1"  # RUNNING is ready
    asking = threading.Thread(target=keep_asking)
    asking.start()
    processes = replicas(cluster, "experts") | replicas(cluster, "ingress")
    cluster.deploy(serve_config(cluster, pool, 3))
    wait_for(lambda: target(cluster) == 3, "the new bound")
    assert replicas(cluster, "experts") | replicas(cluster, "ingress") == processes

    described = yaml.safe_load(pool.read_text())
    described["experts"].append({"name": "poet", "model": "org/base", "adapter": "./poet"})
    pool.with_suffix(".new").write_text(yaml.safe_dump(described))
    pool.with_suffix(".new").rename(pool)
    wait_for(lambda: "poet" in {model.id for model in client.models.list()}, "the expert that came", seconds=10)
    assert ask("poet", "spanish") == "poet: spanish"
    assert replicas(cluster, "experts") | replicas(cluster, "ingress") == processes
    over.set()
    asking.join()
    assert failed == []

    messages: list[Any] = [{"role": "user", "content": "hold on to it"}]
    streams = [client.chat.completions.create(model="adder", messages=messages, stream=True) for _ in range(20)]
    begun = [next(chunk for chunk in stream if chunk.choices[0].delta.content) for stream in streams]
    cluster.nodes["two"].send_signal(signal.SIGTERM)
    wait_for(lambda: (tmp_path / "go").touch() is None, "the end of what was held")
    texts = [
        first.choices[0].delta.content + "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        for first, stream in zip(begun, streams, strict=True)
    ]
    assert texts == ["adder: hold on to it"] * 20


def target(cluster: Cluster) -> int:
    """The most replicas that Ray Serve may start."""
    found = cluster.status()["applications"]["symmoe"]["deployments"]["experts"]["deployment_config"]
    return int(found["autoscaling_config"]["max_replicas"])
