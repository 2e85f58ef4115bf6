"""Everything that is rendered: each overlay as it is shipped, and each shipped pool on hardware that it fits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from symmoe.config import read_pool
from symmoe.manifests.building import build
from symmoe.manifests.sized import write_overlay
from symmoe.sizing.cluster import size_cluster

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "k8s"
RENDERED = {
    "overlay cpu": "cpu",
    "overlay gpu": "gpu",
    "overlay production": "production",
    "starter on cpu": ("tiny", "cpu", 3, 1),
    "starter on L4": ("tiny", "L4", 1, 1),
    "small-2026 on H100": ("small-2026", "H100", 2, 8),
    "symbolic-moe-16 on L4": ("symbolic-moe-16", "L4", 2, 8),
    "symbolic-moe-16 on H200": ("symbolic-moe-16", "H200", 1, 4),
}


@cache
def rendered(name: str) -> list[dict[str, Any]]:
    """The manifests of one of `RENDERED`."""
    what = RENDERED[name]
    if isinstance(what, str):
        return build(SHIPPED / "overlays" / what)
    pool, kind, nodes, per_node = what
    with TemporaryDirectory() as folder:
        return build(write_overlay(SHIPPED, Path(folder), size_cluster(read_pool(pool), kind, nodes, per_node)))


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
        elif manifest["kind"] in ("StatefulSet", "Deployment", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def containers(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every container, init containers too, with its pod's spec."""
    for where, pod in pods(manifests):
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            yield f"{where}/{container['name']}", container, pod["spec"]
