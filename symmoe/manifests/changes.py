"""The differences between two sets of manifests, and what restarts because of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from symmoe.manifests.rendering import Manifest
from symmoe.yaml_text import load_yaml

Effect = Literal[
    "new cluster",
    "engines restart",
    "replicas change",
    "redis restarts",
    "refused",
    "experts come or go",
    "nothing restarts",
]
_COUNTS = ("replicas", "minReplicas", "maxReplicas")
_IMMUTABLE = {"PersistentVolumeClaim": ("spec.accessModes", "spec.storageClassName")}


@dataclass(frozen=True, slots=True)
class Change:
    """One object that is made, removed or changed: its changed fields as text, and the effect on a running service."""

    what: str
    how: Literal["made", "removed", "changed"]
    places: tuple[str, ...]
    effect: Effect


def changes(before: Sequence[Manifest], after: Sequence[Manifest]) -> list[Change]:
    """All changes between two renderings, in the order of the second, removed objects last."""
    old, new = _by_name(before), _by_name(after)
    found = []
    for name, manifest in new.items():
        if name not in old:
            found.append(Change(name, "made", (), "nothing restarts"))
        elif manifest != old[name]:
            places = tuple(_differences(_with_parsed_config(old[name]), _with_parsed_config(manifest)))
            found.append(Change(name, "changed", places, _effect(manifest["kind"], name, places)))
    return found + [Change(name, "removed", (), "nothing restarts") for name in old if name not in new]


def patches(before: Sequence[Manifest], after: Sequence[Manifest]) -> str | None:
    """The JSON patch that gives a running RayCluster other numbers of pods; None if they are the same.

    KubeRay does not change the bounds of a RayCluster that exists (kuberay#4568).
    """
    groups = [_groups(before), _groups(after)]
    operations = [
        {"op": "replace", "path": f"/spec/workerGroupSpecs/{place}/{count}", "value": new[count]}
        for place, (old, new) in enumerate(zip(*groups, strict=False))
        for count in _COUNTS
        if old[count] != new[count] and old["groupName"] == new["groupName"]
    ]
    return json.dumps(operations) if operations else None


def _groups(manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    services = [each for each in manifests if each["kind"] == "RayService"]
    return services[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"] if services else []


def _by_name(manifests: Sequence[Manifest]) -> dict[str, Manifest]:
    return {f"{each['kind']} {each['metadata']['name']}": each for each in manifests}


def _with_parsed_config(manifest: Manifest) -> Manifest:
    """The manifest, with the configuration of Ray Serve parsed."""
    if manifest["kind"] != "RayService":
        return manifest
    config = load_yaml(manifest["spec"]["serveConfigV2"])
    return {**manifest, "spec": {**manifest["spec"], "serveConfigV2": config}}


def _differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{place}[{at}]")
    elif old != new:
        yield f"{place}: {_short(old)} → {_short(new)}"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    first, *rest = text.splitlines() or [""]
    return f"{first[:60]}…" if rest or len(first) > 60 else first


def _effect(kind: str, name: str, places: Sequence[str]) -> Effect:
    paths = [place.partition(":")[0] for place in places]
    if any(path.startswith(_IMMUTABLE.get(kind, ())) for path in paths if kind in _IMMUTABLE):
        return "refused"
    if kind == "StatefulSet":
        return "redis restarts" if any(path.startswith("spec.template") for path in paths) else "refused"
    if name.startswith("ConfigMap symmoe-pool"):
        return "experts come or go"
    if kind != "RayService":
        return "nothing restarts"
    cluster = [path for path in paths if path.startswith("spec.rayClusterConfig")]
    if any(not path.endswith(tuple(f".{count}" for count in _COUNTS)) for path in cluster):
        return "new cluster"
    serve = [path.removeprefix("spec.serveConfigV2.") for path in paths if path.startswith("spec.serveConfigV2")]
    if any(not path.startswith("applications[0].deployments") for path in serve):
        return "engines restart"
    return "replicas change" if cluster or serve else "nothing restarts"
