"""The files of an overlay that a pool decides: the pool itself, the sizes, and the volume."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from symmoe.config import STARTER, Pool, shipped_pool
from symmoe.errors import PoolError
from symmoe.manifests.building import to_yaml
from symmoe.sizing.cluster import Cluster

POOL_FILE = "/etc/symmoe/pool.yaml"
IN_IMAGE = "/opt/symmoe/starter"
"""Where an image has the adapters of the starter pool."""
ON_VOLUME = "/var/lib/symmoe/pool"
"""Where the volume has what a pool file names beside itself."""
IMPORT_PATH = "symmoe.deployments.app:build_app"
_HOSTS = tuple(f"symmoe-serve-svc{rest}" for rest in ("", ".symmoe", ".symmoe.svc", ".symmoe.svc.cluster.local"))
"""The names of KubeRay's Service: where no keys are asked for, requests to other names are refused."""
_CONFIG_MAP_BYTES = 900_000
_REWARD_CPUS = 0.25
_BESIDE_CPUS = 1
"""What Ray is told of a CPU pod beyond the CPUs of its engine: room for an ingress, whose work is small."""
_BESIDE = (
    ("routing", "profiles", "profiles.json"),
    ("routing", "taxonomy", "taxonomy.yaml"),
    ("aggregation", "rule", "rule.json"),
)
"""Files that a pool file may name and that are small enough to stand beside it."""


def overlay_files(cluster: Cluster, least: int = 1, keys: bool = True) -> dict[str, str]:
    """The content of each file of an overlay by its name.

    `least` replicas run also where nobody asks. Without `keys` everybody may ask whom the network policies let through.
    """
    pool = _pool_files(cluster.pool)
    return {
        **pool,
        "sizes.yaml": to_yaml_list(_size_operations(cluster, least, keys)),
        "volume.yaml": to_yaml(
            [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "symmoe-models"},
                    "spec": {"resources": {"requests": {"storage": f"{cluster.disk_gib}Gi"}}},
                }
            ]
        ),
    }


def overlay_name(cluster: Cluster) -> str:
    """Which of the overlays fits."""
    return "gpu" if cluster.accelerator else "cpu"


def write_overlay(shipped: Path, folder: Path, cluster: Cluster, least: int = 1, keys: bool = True) -> Path:
    """Copy the shipped kustomizations into `folder`, sized for a cluster; where its overlay is."""
    shutil.copytree(shipped, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.py", "images"))
    overlay = folder / "overlays" / overlay_name(cluster)
    files = overlay_files(cluster, least, keys)
    for name, text in files.items():
        (overlay / name).write_text(text, encoding="utf-8")
    _name_pool_files(
        overlay / "kustomization.yaml", [name for name in files if name not in ("sizes.yaml", "volume.yaml")]
    )
    return overlay


def serve_config(cluster: Cluster, least: int = 1, keys: bool = True) -> dict[str, Any]:
    """What Ray Serve is told: the application, its pool, and where its parts are placed.

    What a replica claims is stated, because pods join only when something asks for them. An ingress claims CPUs, so
    that none is on the head, which has none: the head may die, and requests go on.
    """
    arguments = {
        "pool": POOL_FILE,
        "replicas": cluster.replicas,
        **({"least": least} if least < cluster.replicas else {}),
        **_claims(cluster),
        **({} if keys else {"without_keys": True, "hosts": list(_HOSTS)}),
    }
    application: dict[str, Any] = {
        "name": "symmoe",
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": arguments,
        "deployments": [{"name": "ingress", "ray_actor_options": {"num_cpus": _BESIDE_CPUS}}],
    }
    if cluster.accelerator:
        # one ingress for each front pod: an expert pod offers one CPU, which is too little for it
        front = {"name": "ingress", "num_replicas": 2, "max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 2}}
        application["deployments"] = [front]
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},  # noqa: S104 - the network policies say who reaches it
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [application],
    }


def to_yaml_list(operations: list[dict[str, Any]]) -> str:
    """Operations as one YAML list."""
    return to_yaml([operations])  # type: ignore[list-item]


def _size_operations(cluster: Cluster, least: int, keys: bool) -> list[dict[str, Any]]:
    group = "/spec/rayClusterConfig/workerGroupSpecs/0"
    pod = f"{group}/template/spec"
    floor = min(least, cluster.replicas)
    values: list[tuple[str, Any]] = [
        ("/spec/serveConfigV2", yaml.safe_dump(serve_config(cluster, least, keys), sort_keys=False)),
        (f"{group}/replicas", floor),
        (f"{group}/minReplicas", floor),
        (f"{group}/maxReplicas", cluster.replicas),
        (f"{pod}/containers/0/resources", _resources(cluster)),
        (f"{pod}/volumes/0/emptyDir/sizeLimit", f"{round(cluster.shared_gib * 1024)}Mi"),
    ]
    if not cluster.accelerator:
        reward = 0 if cluster.pool.reward is None else 1
        values.append((f"{group}/rayStartParams/num-cpus", str(cluster.cpus + _BESIDE_CPUS + reward)))
    return [{"op": "replace", "path": path, "value": value} for path, value in values]


def _claims(cluster: Cluster) -> dict[str, Any]:
    """What a replica claims. The one CPU that Ray knows of an accelerated pod has room for a reward replica too."""
    if cluster.accelerator is None:
        return {"cpus": cluster.cpus}
    reward = {} if cluster.pool.reward is None else {"reward_cpus": _REWARD_CPUS}
    return {"cpus": 1 - reward.get("reward_cpus", 0), "accelerators": cluster.split, **reward}


def _resources(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Requests equal limits in memory: what an engine needs it needs all the time."""
    gpus = {"nvidia.com/gpu": cluster.split} if cluster.accelerator else {}
    same = {"memory": f"{cluster.memory_gib}Gi", **gpus}
    return {
        "requests": {"cpu": str(cluster.cpus), "ephemeral-storage": "4Gi", **same},
        "limits": {"cpu": str(cluster.cpus), "ephemeral-storage": "20Gi", **same},
    }


def _pool_files(pool: Pool) -> dict[str, str]:
    """The pool file as it stands in a pod, and the files that it names and that are small enough to stand beside it."""
    document = pool.model_dump(mode="json", exclude_unset=True)
    engine = pool.engine
    filled = {"host_tier_gib": engine.host_tier_gib, "tensor_parallel_size": engine.tensor_parallel_size}
    document.setdefault("engine", {}).update(filled)
    for expert in (each for each in document["experts"] if not each.get("remote")):
        expert["model"] = _in_pod(expert["model"], pool)
        if expert.get("adapter"):
            expert["adapter"] = _in_pod(expert["adapter"], pool, always=True)
    if document.get("reward") and pool.reward:
        document["reward"]["model"] = _in_pod(pool.reward.model, pool)
    files: dict[str, str] = {}
    for section, key, name in _BESIDE:
        value = str(document.get(section, {}).get(key) or "")
        if value.endswith((".json", ".yaml")):
            files[name] = _small(pool.path(value))
            document[section][key] = f"./{name}"
    return {"pool.yaml": to_yaml([document]), **files}


def _in_pod(source: str, pool: Pool, always: bool = False) -> str:
    """A directory named in the pool file as it is found in a pod; hub names and packages stay."""
    if not always and not source.startswith(("./", "../", "/", "~")):
        return source
    starter = shipped_pool(STARTER).parent
    path = pool.path(source).resolve()
    if path.is_relative_to(starter.resolve()):
        return f"{IN_IMAGE}/{path.relative_to(starter.resolve())}"
    if path.is_relative_to(pool.root.resolve()):
        return f"{ON_VOLUME}/{path.relative_to(pool.root.resolve())}"
    return f"{ON_VOLUME}/{path.name}"


def _small(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PoolError(f"{path}: cannot be read ({error.strerror})") from error
    if len(text.encode()) > _CONFIG_MAP_BYTES:
        raise PoolError(
            f"{path} is too large for a ConfigMap",
            hint="push it into the store with `symmoe profile push` and name it store:NAME",
        )
    return text


def _name_pool_files(file: Path, names: list[str]) -> None:
    """Say in an overlay's kustomization which files its pool consists of."""
    described: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    if described["configMapGenerator"][0]["files"] != names:
        changed = {**described, "configMapGenerator": [{"name": "symmoe-pool", "files": names}]}
        file.write_text(yaml.safe_dump(changed, sort_keys=False, width=120), encoding="utf-8")


def local_sources(pool: Pool) -> dict[str, str]:
    """Directories that the pool names and no image has, each with the place on the volume where it belongs."""
    own = [expert for expert in pool.experts if expert.remote is None]
    named = [expert.model for expert in own] + [str(pool.path(expert.adapter)) for expert in own if expert.adapter]
    local = {source for source in named if source.startswith(("./", "../", "/", "~"))}
    found = {str(pool.path(source).resolve()): _in_pod(source, pool) for source in sorted(local)}
    return {here: there for here, there in found.items() if there.startswith(ON_VOLUME)}
