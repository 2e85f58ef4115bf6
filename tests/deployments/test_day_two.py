"""What operators do on the second day, on two raylets: bounds change, an expert comes, a node goes in mid-stream.

The Serve config is the rendered one, but for the pool, whose engines echo and hold what they are told to, and for what
several nodes of one machine cannot share: the address of the proxies.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import openai
import pytest
import yaml

from symmoe.manifests.rendering import render
from symmoe.manifests.values import Values
from symmoe.yaml_text import load_yaml
from tests.clusters import LOCAL, PATIENCE, Cluster, Service, ray_cluster, redis_server, wait_for
from tests.conftest import echo_pool
from tests.deployments.test_serve_config import Manifests, environment_of
from tests.deployments.test_serve_config import serve_config as moved_config
from tests.k8s.conftest import sized

STREAMS = CLIENTS = 20
NODE_CPUS = 5
"""What the rendered config wants of a node: four for the engine, one for an ingress."""

Record = Callable[[str, object], None]


def manifests(nodes: int) -> Manifests:
    return render(sized(Values(nodes=nodes, keys=False)))


def serve_config(cluster: Cluster, pool: Path, nodes: int) -> dict[str, Any]:
    config = moved_config(manifests(nodes), pool.parent)
    (application,) = config["applications"]
    application["import_path"] = "tests.deployments.held:held_app"
    application["args"] |= {"pool": str(pool), "follow": str(pool)}
    return {**config, "http_options": {"host": LOCAL, "port": cluster.proxies["head"]}}


def replicas(cluster: Cluster, deployment: str) -> dict[int, str]:
    """The processes of a deployment's running replicas, and the addresses of their nodes."""
    found = cluster.status()["applications"]["symmoe"]["deployments"][deployment]["replicas"]
    return {int(each["pid"]): each["node_ip"] for each in found if each["state"] == "RUNNING"}


def running(cluster: Cluster) -> set[int]:
    return replicas(cluster, "experts").keys() | replicas(cluster, "ingress").keys()


def most(cluster: Cluster) -> int:
    """The most replicas that Ray Serve may start."""
    found = cluster.status()["applications"]["symmoe"]["deployments"]["experts"]["deployment_config"]
    return int(found["autoscaling_config"]["max_replicas"])


def health(url: str) -> int:
    """What a proxy says to those who ask after its health; one that drains says 503."""
    return httpx.get(url.replace("/v1", "/-/healthz")).status_code


def wait_until_selected(cluster: Cluster) -> None:
    """Wait for what a Service of Kubernetes waits for: a pod that is ready, its proxy also."""
    cluster.wait_until_running()
    wait_for(lambda: health(cluster.url("worker")) == 200, "a proxy that takes requests")


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", timeout=PATIENCE, max_retries=0)


def ask(client: openai.OpenAI, model: str, text: str) -> str | None:
    messages: list[Any] = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages).choices[0].message.content


class Asking:
    """Clients that ask one question after another, what failed, and the seconds that each answer took."""

    def __init__(self, url: str, pause: float) -> None:
        self._client, self._pause = client_of(url), pause
        self._over = threading.Event()
        self.failed: list[Exception] = []
        self.answers: list[tuple[float, float]] = []
        """When each was asked for, and when it was there."""

    def keep_on(self) -> None:
        while not self._over.wait(self._pause):
            began = time.monotonic()
            try:
                assert ask(self._client, "adder", "sums") == "adder: sums"
            except Exception as error:
                self.failed.append(error)
            self.answers.append((began, time.monotonic()))

    @property
    def took(self) -> list[float]:
        return [ended - began for began, ended in self.answers]

    def since(self, moment: float) -> list[float]:
        """What the answers took that came after a moment, of those that were asked for before it the part since."""
        return [ended - max(began, moment) for began, ended in self.answers if ended > moment]

    def go_on(self, answers: int) -> list[float]:
        """Wait for so many answers more, and give what they took."""
        before = len(self.answers)
        wait_for(lambda: len(self.answers) >= before + answers, "answers")
        return self.took[before:]

    @classmethod
    @contextmanager
    def of(cls, count: int, url: str, pause: float = 0.05) -> Iterator[Asking]:
        """So many clients, as long as the block lasts."""
        asking = cls(url, pause)
        threads = [threading.Thread(target=asking.keep_on) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            yield asking
        finally:
            asking._over.set()
            for thread in threads:
                thread.join()


@contextmanager
def nodes_of(folder: Path, redis: str, *workers: str) -> Iterator[Cluster]:
    """A head and workers that are told what pods are told."""
    own = {
        **environment_of(manifests(nodes=2), folder),
        "REDIS_URL": redis,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    for place in ("tmp", "var/lib/symmoe"):
        (folder / place).mkdir(parents=True)
    with ray_cluster(**own) as cluster:
        cluster.start_head()
        for name in workers:
            cluster.start_worker(name, NODE_CPUS)
        yield cluster


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with redis_server() as (port, password):
        yield f"redis://:{password}@{LOCAL}:{port}/0"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return echo_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pool: Path, redis: str) -> Iterator[Cluster]:
    """Two workers with an expert replica each and one ingress; `RUNNING` when this is given."""
    with nodes_of(tmp_path_factory.mktemp("cluster"), redis, "one", "two") as cluster:
        config = serve_config(cluster, pool, nodes=2)
        config["applications"][0]["deployments"][1]["autoscaling_config"]["initial_replicas"] = 2
        cluster.deploy(config)
        cluster.wait_until_running()
        yield cluster


@pytest.mark.slow
def test_what_is_running_answers_at_once(cluster: Cluster, record_property: Record) -> None:
    client = client_of(cluster.url("one"))
    began = time.monotonic()
    assert ask(client, "adder", "sums 1") == "adder: sums 1"
    record_property("seconds to the first answer", took := time.monotonic() - began)
    assert took < 1


@pytest.mark.slow
def test_other_bounds_restart_no_process(cluster: Cluster, pool: Path) -> None:
    before = running(cluster)
    with Asking.of(2, cluster.url("one")) as asking:
        assert most(cluster) == 2
        cluster.deploy(serve_config(cluster, pool, nodes=3))
        wait_for(lambda: most(cluster) == 3, "the new bound")
        cluster.wait_until_running()
    assert before <= running(cluster)
    assert asking.failed == []


@pytest.mark.slow
def test_an_expert_that_comes_into_the_pool_file_answers_within_ten_seconds(
    cluster: Cluster, pool: Path, record_property: Record
) -> None:
    before = running(cluster)
    client = client_of(cluster.url("two"))
    described = load_yaml(pool.read_text())
    described["experts"].append({"name": "poet", "model": "org/base", "adapter": "./poet"})
    with Asking.of(2, cluster.url("one")) as asking:
        pool.with_suffix(".new").write_text(yaml.safe_dump(described))
        began = time.monotonic()
        pool.with_suffix(".new").rename(pool)
        wait_for(lambda: "poet" in {model.id for model in client.models.list()}, "the expert that came", seconds=10)
        assert ask(client, "poet", "spanish") == "poet: spanish"
        record_property("seconds to its answer", took := time.monotonic() - began)
    assert took < 10
    assert before <= running(cluster)
    assert asking.failed == []


@pytest.mark.slow
def test_a_node_that_is_told_to_end_in_mid_stream_ends_its_streams_well(
    cluster: Cluster, pool: Path, record_property: Record
) -> None:
    """Half of them came in through its own proxy, and all go through the one ingress, which is on it."""
    (address,) = replicas(cluster, "ingress").values()
    leaving, staying = sorted(("one", "two"), key=lambda name: cluster.address(name) != address)
    clients = [client_of(cluster.url(name)) for name in (leaving, staying)]
    messages: list[Any] = [{"role": "user", "content": "hold on to it"}]
    streams = [
        clients[number % 2].chat.completions.create(model="adder", messages=messages, stream=True)
        for number in range(STREAMS)
    ]
    begun = [next(chunk for chunk in stream if chunk.choices[0].delta.content) for stream in streams]
    with Asking.of(2, cluster.url(staying)) as asking:
        told = time.monotonic()
        cluster.nodes[leaving].send_signal(signal.SIGTERM)
        wait_for(lambda: health(cluster.url(leaving)) == 503, "a proxy that drains")
        wait_for(lambda: {*replicas(cluster, "ingress").values()} - {address}, "an ingress elsewhere")
        (pool.parent / "go").touch()
        texts = [
            (first.choices[0].delta.content or "") + "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            for first, stream in zip(begun, streams, strict=True)
        ]
        record_property("seconds from the signal to the last word", time.monotonic() - told)
        assert texts == ["adder: hold on to it"] * STREAMS
        asking.go_on(50)
    record_property("longest answer meanwhile", max(asking.took))
    assert asking.failed == []


@pytest.mark.slow
def test_an_upgrade_to_another_cluster_is_noticed_by_none_of_twenty_clients(
    tmp_path: Path, redis: str, record_property: Record
) -> None:
    """As KubeRay does it: once the new one runs, the Service selects it, and then all pods of the old one end."""
    pool = echo_pool(tmp_path)
    with nodes_of(tmp_path / "old", redis, "worker") as old:
        old.deploy(serve_config(old, pool, nodes=1))
        wait_until_selected(old)
        service = Service(old.proxies["worker"])
        with service.listening() as port, Asking.of(CLIENTS, f"http://{LOCAL}:{port}/v1", pause=0.5) as asking:
            normal = median(asking.go_on(100))
            with nodes_of(tmp_path / "new", redis, "worker") as new:
                new.deploy(serve_config(new, pool, nodes=1))
                wait_until_selected(new)
                record_property("longest answer while the new one starts", max(asking.took))  # on the same cores
                switched = time.monotonic()
                service.port = new.proxies["worker"]
                asking.go_on(100)
                assert service.open[old.proxies["worker"]], "clients keep connections to the old one"
                for node in old.nodes.values():
                    node.send_signal(signal.SIGTERM)
                began = time.monotonic()
                wait_for(lambda: not service.open[old.proxies["worker"]], "clients that all went elsewhere")
                record_property("seconds until nobody asks the old one", time.monotonic() - began)
                old.close()
                asking.go_on(100)
                latest = max(asking.since(switched)) - normal
                assert asking.failed == []
    record_property("median answer", normal)
    record_property("latest beyond it", latest)
    record_property("answers", len(asking.answers))
    assert latest < 5
