"""The head of a cluster is lost with all that ran on it, and comes back: its state is in Redis, as on Kubernetes."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from tests.clusters import LOCAL, Cluster, Service, ray_cluster, redis_server, wait_for
from tests.conftest import echo_pool

LINES = 40
WORKER_CPUS = 3


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head whose state is in Redis and one worker, told what KubeRay tells them; the service runs on the worker."""
    with redis_server() as (port, password):
        told = {
            "RAY_REDIS_ADDRESS": f"{LOCAL}:{port}",
            "RAY_external_storage_namespace": "one",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "REDIS_URL": f"redis://:{password}@{LOCAL}:{port}/0",
            "SYMMOE_FILES": str(tmp_path / "files"),
            "SYMMOE_STATE": str(tmp_path / "state"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        with ray_cluster(**told) as cluster:
            cluster.redis_password = password
            cluster.start_head()
            cluster.start_worker("worker", WORKER_CPUS)
            cluster.deploy(serve_config(cluster, echo_pool(tmp_path)))
            cluster.wait_until_running()
            yield cluster


def serve_config(cluster: Cluster, pool: Path) -> dict[str, Any]:
    application = {
        "name": "symmoe",
        "route_prefix": "/",
        "import_path": "tests.deployments.held:held_app",
        "args": {"pool": str(pool), "cpus": 1},
        "deployments": [{"name": "ingress", "ray_actor_options": {"num_cpus": 1}}],
    }
    http = {"host": LOCAL, "port": cluster.proxies["head"]}
    return {"proxy_location": "EveryNode", "http_options": http, "applications": [application]}


def line(number: int) -> str:
    body = {"model": "adder", "messages": [{"role": "user", "content": f"hold {number}"}]}
    return json.dumps({"custom_id": f"n{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def replicas(cluster: Cluster, deployment: str) -> set[int]:
    """The processes of a deployment's running replicas."""
    found = cluster.status()["applications"]["symmoe"]["deployments"][deployment]["replicas"]
    return {int(each["pid"]) for each in found if each["state"] == "RUNNING"}


@pytest.mark.slow
def test_the_head_is_lost_and_comes_back_while_answers_and_a_batch_go_on(cluster: Cluster, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=cluster.url("worker"), api_key="none", timeout=60)

    def ask(text: str) -> str | None:
        answer = client.chat.completions.create(model="adder", messages=[{"role": "user", "content": text}])
        return answer.choices[0].message.content

    wait_for(lambda: ask("sums 1") == "adder: sums 1", "an answer")
    source = client.files.create(file=("in.jsonl", "\n".join(map(line, range(LINES))).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=source.id, endpoint="/v1/chat/completions", completion_window="24h")
    wait_for(lambda: (tmp_path / "asked").read_text().count("hold") == LINES, "a batch that runs")
    engines, ingresses = replicas(cluster, "experts"), replicas(cluster, "ingress")

    cluster.kill("head")
    assert ask("while there is no head") == "adder: while there is no head"
    assert client.batches.retrieve(batch.id).status == "in_progress"

    cluster.start_head()
    cluster.wait_until_running()
    assert ask("after it came back") == "adder: after it came back"
    assert replicas(cluster, "experts") == engines
    assert replicas(cluster, "ingress") == ingresses

    (ingress,) = ingresses
    os.kill(ingress, signal.SIGKILL)  # the new head heals what is lost next
    wait_for(lambda: replicas(cluster, "ingress") - ingresses, "another ingress")
    (tmp_path / "go").touch()
    wait_for(lambda: client.batches.retrieve(batch.id).status == "completed", "the end of the batch")
    output = client.batches.retrieve(batch.id).output_file_id
    assert output is not None
    rows = [json.loads(row) for row in client.files.content(output).text.splitlines()]
    given = sorted((row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"]) for row in rows)
    assert given == sorted((f"n{number}", f"adder: hold {number}") for number in range(LINES))


@pytest.mark.slow
def test_a_head_starts_whose_redis_has_a_certificate_of_an_authority_of_its_own(tmp_path: Path) -> None:
    """With what the manifests tell it where `redis.ca_secret` is set."""
    key, certificate = str(tmp_path / "key"), str(tmp_path / "ca.crt")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*made, "-days", "1", "-subj", "/CN=redis", "-addext", f"subjectAltName=IP:{LOCAL}"], check=True)
    secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secured.load_cert_chain(certificate, key)
    with redis_server() as (port, password), Service(port).listening(secured) as there:
        told = {"RAY_REDIS_ADDRESS": f"rediss://{LOCAL}:{there}", "RAY_REDIS_CA_CERT": certificate}
        with ray_cluster(**told, RAY_external_storage_namespace="one") as cluster:
            cluster.redis_password = password
            cluster.start_head()
            with redis.Redis(LOCAL, port, password=password) as client:
                assert client.keys("RAYone*")
