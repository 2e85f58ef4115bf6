"""Renders values and a pool into manifests, and writes the folder that an operator keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml

from symmoe.config import BUCKET, HUB_ADAPTER, STARTER, Pool, shipped_pool
from symmoe.errors import ConfigError, PoolError
from symmoe.manifests.templates import Templates
from symmoe.manifests.values import OPERATORS, Sized, Values, to_yaml, values_text
from symmoe.sizing.cluster import Cluster
from symmoe.yaml_text import load_yaml, load_yamls

Manifest = dict[str, Any]
POOL_FILE = "/etc/symmoe/pool.yaml"
IN_IMAGE = "/opt/symmoe/starter"
"""The folder of the starter pool's adapters in an image."""
ON_VOLUME = "/var/lib/symmoe/pool"
"""The folder on the volume for directories that a pool file names by relative paths."""
VALUES, SIZED, MANIFESTS, KUSTOMIZATION, CHART = (
    *("values.yaml", "sized.yaml", "manifests.yaml", "kustomization.yaml", "chart"),
)
"""The files of an installation: the operator's values, computed ones, manifests, and those for kubectl and Helm."""
_CONFIG_MAP_BYTES = 900_000
PROFILES, JOINED = "profiles.json", "joined.json"
_BESIDE = (
    ("routing", "profiles", PROFILES),
    ("routing", "taxonomy", "taxonomy.yaml"),
    ("aggregation", "rule", "rule.json"),
)
"""Fields of a pool file that name small files, and the names of these beside the pool file in a pod."""
_KUSTOMIZATION = """\
# Yours: patches added here are kept. `symmoe k8s render` overwrites manifests.yaml.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [manifests.yaml]
"""


def sized_values(values: Values, cluster: Cluster, before: Values | None = None) -> Values:
    """The values with the sizes of the pool on a cluster, and with the pool's files as pods read them.

    If the pool differs from the one rendered `before` only in experts added or removed, pods are kept.
    """
    sized = Sized(
        replicas=cluster.replicas,
        accelerators=cluster.split if cluster.accelerator else 0,
        cpus=cluster.cpus,
        memory_gib=cluster.memory_gib,
        shared_mib=round(cluster.shared_gib * 1024),
        disk_gib=cluster.disk_gib,
        device_gib=cluster.device_gib,
        open_requests=cluster.pool.engine.max_num_seqs,
        reward=cluster.pool.reward is not None,
    )
    files = _pool_files(cluster.pool)
    base = (before.pool_base or before.pool_files) if before else {}
    followed = followed_files(base, files) if base and base != files else None
    pool = {"pool_files": files, "pool_base": {}} if followed is None else {"pool_files": followed, "pool_base": base}
    return values.model_copy(update={"sized": sized, **pool})


def followed_files(base: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str] | None:
    """The files of a pool for running pods that started with those of `base`; None if they would have to restart.

    They need not if experts are removed, or experts without a deployment of their own are added. Records of added
    experts are a file of their own: a pod that restarts takes the experts of `base` and refuses records of others.
    """
    old, new = load_yaml(base["pool.yaml"]), load_yaml(files["pool.yaml"])
    before, after = ({expert["name"]: expert for expert in pool["experts"]} for pool in (old, new))
    added = after.keys() - before.keys()
    same = {**old, "experts": []} == {**new, "experts": []} and base.keys() - {JOINED} == files.keys()
    same = same and all(base[name] == files[name] for name in files if name not in ("pool.yaml", PROFILES))
    same = same and all(after[name] == before[name] for name in after if name in before)
    if not same or any(after[name].get(key) for name in added for key in ("remote", "dedicated", "trust_remote_code")):
        return None
    if any(str(after[name].get(key)).startswith(BUCKET) for name in added for key in ("model", "adapter")):
        return None  # pods that serve have no credentials for a bucket
    if base.get(PROFILES) == files.get(PROFILES):
        return dict(files)
    old_records, new_records = (json.loads(each[PROFILES]) for each in (base, files))
    rows = old_records["experts"], new_records["experts"]
    others = [
        {key: value for key, value in each.items() if key not in ("experts", "about")}
        for each in (old_records, new_records)
    ]
    if others[0] != others[1] or others[1].keys() - {"format", "belief"}:
        return None
    if any(rows[1][name] != rows[0].get(name) for name in rows[1] if name not in added):
        return None
    joined = {name: rows[1].pop(name) for name in sorted(added & rows[1].keys())}
    return {**files, PROFILES: json.dumps(new_records), JOINED: json.dumps({"experts": joined})}


def render(values: Values) -> list[Manifest]:
    """All manifests, as `helm template` gives them. Raises `ConfigError`, which names the template at fault."""
    with as_file(files("symmoe.k8s")) as shipped:
        chart = shipped / CHART
        texts = {file.name: file.read_text(encoding="utf-8") for file in sorted((chart / "templates").iterdir())}
        scope = {
            "Values": values.model_dump(mode="json"),
            "Chart": {"AppVersion": load_yaml((chart / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]},
            "Release": {"Name": "symmoe", "Namespace": values.namespace},
            "Files": {"Get": lambda name: (chart / name).read_text(encoding="utf-8")},
        }
        templates = Templates(texts)
        made = "\n---\n".join(templates.render(name, scope) for name in texts if name.endswith(".yaml"))
    try:
        return [each for each in load_yamls(made) if each]
    except yaml.YAMLError as error:
        raise ConfigError(f"a template gives no YAML ({' '.join(str(error).split())})") from error


def write_installation(folder: Path, text: str, values: Values) -> Path:
    """Write manifests and chart for `values` into a folder, with the operator's `text` of them as values.yaml.

    An existing kustomization and files of other names are kept. Returns the path of the kustomization.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VALUES).write_text(text, encoding="utf-8")
    computed = values_text(values, tuple(name for name in Values.model_fields if name not in OPERATORS))
    (folder / SIZED).write_text("# Written by `symmoe k8s render`.\n" + computed.partition("\n")[2], encoding="utf-8")
    (folder / MANIFESTS).write_text(to_yaml(render(values)), encoding="utf-8")
    if not (folder / KUSTOMIZATION).exists():
        (folder / KUSTOMIZATION).write_text(_KUSTOMIZATION, encoding="utf-8")
    with as_file(files("symmoe.k8s")) as shipped:
        shutil.copytree(shipped / CHART, folder / CHART, dirs_exist_ok=True)
    return folder / KUSTOMIZATION


def _pool_files(pool: Pool) -> dict[str, str]:
    """The pool file for pods, and the small files that it names, by file name."""
    document = pool.model_dump(mode="json", exclude_unset=True)
    engine = pool.engine
    filled = {"host_tier_gib": engine.host_tier_gib, "tensor_parallel_size": engine.tensor_parallel_size}
    document.setdefault("engine", {}).update(filled)
    for expert in (each for each in document["experts"] if not each.get("remote")):
        expert["model"] = _in_pod(expert["model"], pool)
        if expert.get("adapter") and not _is_fetched(expert["adapter"]):
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


def _is_fetched(adapter: str) -> bool:
    """Whether pods fetch the adapter themselves, from the hub or a bucket."""
    return adapter.startswith((HUB_ADAPTER, BUCKET))


def _in_pod(source: str, pool: Pool, always: bool = False) -> str:
    """The path in a pod of a directory that the pool file names; hub names and packages stay as they are."""
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


def local_sources(pool: Pool) -> dict[str, str]:
    """Local directories of the pool that images do not have, each with its path on the volume."""
    own = [expert for expert in pool.experts if expert.remote is None]
    adapters = [each.adapter for each in own if each.adapter and not _is_fetched(each.adapter)]
    named = [expert.model for expert in own] + [str(pool.path(adapter)) for adapter in adapters]
    local = {source for source in named if source.startswith(("./", "../", "/", "~"))}
    found = {str(pool.path(source).resolve()): _in_pod(source, pool) for source in sorted(local)}
    return {here: there for here, there in found.items() if there.startswith(ON_VOLUME)}
