"""The Serve config of the manifests, as Ray gets it from KubeRay: applied to a cluster here, it answers."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from symmoe.deployments.app import build_app

from symmoe.config import shipped_pool
from symmoe.manifests.rendering import render
from symmoe.manifests.values import Values
from symmoe.yaml_text import load_yaml
from tests.clusters import BIN, LOCAL, Cluster, free_ports, ray_cluster, redis_server
from tests.k8s.conftest import one, rendered, sized

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray Serve's own models
PLACES = re.compile(r"(?<![\w./-])/(etc/symmoe|opt/symmoe|var/lib/symmoe|tmp)(?![\w.-])")
Manifests = list[dict[str, Any]]


def moved(text: str, folder: Path) -> str:
    """A manifest's text with a pod's places below the folder."""
    return PLACES.sub(lambda place: f"{folder}{place[0]}", text)


def service_of(manifests: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = one(manifests, "RayService", "symmoe")["spec"]
    return spec


def serve_config(manifests: Manifests, folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = load_yaml(moved(service_of(manifests)["serveConfigV2"], folder))
    return config


def laid_out(manifests: Manifests, folder: Path) -> None:
    """What a pod finds: the ConfigMap with the pool where it is mounted, the adapters where the image has them."""
    mounted = folder / "etc" / "symmoe"
    mounted.mkdir(parents=True)
    for name, text in one(manifests, "ConfigMap", "symmoe-pool")["data"].items():
        (mounted / name).write_text(moved(text, folder))
    image = folder / "opt" / "symmoe"
    image.mkdir(parents=True)
    (image / "starter").symlink_to(shipped_pool("tiny").parent)
    for place in ("var/lib/symmoe", "tmp"):
        (folder / place).mkdir(parents=True)


def environment_of(manifests: Manifests, folder: Path) -> dict[str, str]:
    data = one(manifests, "ConfigMap", "symmoe-environment")["data"]
    return {name: moved(value, folder) for name, value in data.items()}


@pytest.mark.slow
def test_the_application_of_the_manifests_answers_with_engines_that_echo(ray_here: None, tmp_path: Path) -> None:
    """Its own arguments, but for the size of this machine and the engine; experts are asked by name."""
    from ray import serve

    laid_out(rendered("the chart as shipped"), tmp_path)
    config = serve_config(rendered("the chart as shipped"), tmp_path)
    (application,) = config["applications"]
    arguments = {**application["args"], "cpus": 1}
    file = Path(arguments["pool"])
    pool = load_yaml(file.read_text())
    file.write_text(yaml.safe_dump({**pool, "engine": {**pool["engine"], "kind": "echo"}}))
    (port,) = free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=config["logging_config"])
    try:
        serve.run(build_app(arguments), name=application["name"], route_prefix=application["route_prefix"])
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60)
        answer = client.chat.completions.create(model="roman", messages=[{"role": "user", "content": "MMXXVI"}])
        assert answer.choices[0].message.content == "roman: MMXXVI"
    finally:
        serve.shutdown()


@contextmanager
def deployed(manifests: Manifests, folder: Path) -> Iterator[Cluster]:
    """A head as the manifests have it, the config applied, and then, as on Kubernetes, the pod that it needs."""
    laid_out(manifests, folder)
    described = service_of(manifests)["rayClusterConfig"]
    experts, head = described["workerGroupSpecs"][0], described["headGroupSpec"]
    config = serve_config(manifests, folder)
    with redis_server() as (port, password):
        own = {**environment_of(manifests, folder), "REDIS_URL": f"redis://:{password}@{LOCAL}:{port}/0"}
        with ray_cluster(**own) as cluster:
            cluster.start_head(int(head["rayStartParams"]["num-cpus"]))
            cluster.deploy({**config, "http_options": {"host": LOCAL, "port": cluster.proxies["head"]}})
            (fetch,) = experts["template"]["spec"]["initContainers"]
            # packing takes a minute for eleven experts, and pays only where they are loaded again and again
            run(cluster, *(moved(word, folder) for word in fetch["command"] if word != "--pack"))
            cluster.start_worker("experts", int(experts["rayStartParams"]["num-cpus"]))
            cluster.wait_until_running()
            yield cluster


def run(cluster: Cluster, command: str, *words: str) -> str:
    """What a command says in a pod's environment."""
    whole = [str(BIN / command), *words]
    done = subprocess.run(whole, env=dict(cluster.environment), capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("keys", [False, True], ids=["the chart as shipped", "a rendering with keys"])
def test_the_config_that_is_in_the_manifests_comes_up_and_answers(
    keys: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    manifests = render(sized(Values())) if keys else rendered("the chart as shipped")
    with deployed(manifests, tmp_path) as cluster:
        url = cluster.url("experts")
        assert httpx.get(url.replace("/v1", "/ready"), timeout=60).status_code == 200  # RUNNING is ready
        stranger = openai.OpenAI(base_url=url, api_key="none", timeout=60, max_retries=0)
        client = stranger
        if keys:
            made = run(cluster, "symmoe", "key", "create", "somebody", "--json")  # as in the head by `kubectl exec`
            client = stranger.with_options(api_key=json.loads(made)["key"])
            with pytest.raises(openai.AuthenticationError):
                ask(stranger, "roman", "Write the number 14 as a Roman numeral.")
        began = time.monotonic()
        assert ask(client, "generalist", "What is 17 + 25?", max_tokens=1)
        record_property("seconds to a first answer", time.monotonic() - began)
        assert ask(client, "symmoe/auto", "What is 17 + 25?") == "42"
        assert ask(client, "roman", "Write the number 14 as a Roman numeral.") == "XIV"


def ask(client: openai.OpenAI, model: str, text: str, max_tokens: int = 48) -> str:
    messages: list[Any] = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens)
    return str(answer.choices[0].message.content)
