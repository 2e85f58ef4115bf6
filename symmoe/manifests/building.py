"""Kustomizations without kustomize: the part of it that symmoe's manifests use, and an error for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from symmoe.errors import ConfigError
from symmoe.manifests.generating import config_map, hashed_name, renamed
from symmoe.manifests.patching import DELETE, apply_operations, merge

Manifest = dict[str, Any]
_KEYS = {
    *("apiVersion", "kind", "namespace", "labels", "resources", "configMapGenerator", "patches", "images"),
    "configurations",  # tells kustomize where names stand; here they are found wherever they are
}
_CLUSTER_WIDE = {"Namespace"}


def build(folder: Path) -> list[Manifest]:
    """Every manifest of a kustomization, as `kustomize build` gives them. `ConfigError` names file and place."""
    manifests, generated = _build(folder.resolve())
    names = {each["metadata"]["name"]: hashed_name(each) for each in manifests if _key(each) in generated}
    for manifest in manifests:
        if _key(manifest) in generated:
            manifest["metadata"]["name"] = names[manifest["metadata"]["name"]]
    return [renamed(manifest, names) for manifest in manifests]


def to_yaml(manifests: Iterable[Manifest]) -> str:
    """One YAML stream."""
    return "---\n".join(yaml.dump(each, Dumper=_Plain, sort_keys=False, width=120) for each in manifests)


def _build(folder: Path) -> tuple[list[Manifest], set[str]]:
    """Manifests, and which of them are generated and get a digest in their names."""
    file = folder / "kustomization.yaml"
    described = _documents(file)[0]
    unknown = described.keys() - _KEYS
    if unknown:
        raise ConfigError(f"{file}: {', '.join(sorted(unknown))}: not supported here", hint="use kustomize itself")
    manifests: list[Manifest] = []
    generated: set[str] = set()
    for name in described.get("resources", ()):
        if (folder / name).is_dir():
            below, marked = _build((folder / name).resolve())
            manifests += below
            generated |= marked
        else:
            manifests += _documents(folder / name)
    for each in described.get("configMapGenerator", ()):
        made = config_map(folder, each)
        manifests.append(made)
        if not each.get("options", {}).get("disableNameSuffixHash"):
            generated.add(_key(made))
    for patch in described.get("patches", ()):
        manifests = _patched(manifests, patch, folder)
    for manifest in manifests:
        if "namespace" in described and manifest["kind"] not in _CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = described["namespace"]
        for label in described.get("labels", ()):
            manifest["metadata"]["labels"] = {**manifest["metadata"].get("labels", {}), **label["pairs"]}
    return [_with_images(manifest, described.get("images", ())) for manifest in manifests], generated


def _documents(file: Path) -> list[Manifest]:
    try:
        found = [each for each in yaml.safe_load_all(file.read_text(encoding="utf-8")) if each]
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read ({' '.join(str(error).split())})") from error
    if not found:
        raise ConfigError(f"{file}: nothing in it")
    return found


def _patched(manifests: list[Manifest], patch: Mapping[str, Any], folder: Path) -> list[Manifest]:
    file = folder / patch["path"]
    content = _documents(file)[0]
    target = patch.get("target") or {"kind": content["kind"], "name": content["metadata"]["name"]}
    chosen = [
        each
        for each in manifests
        if each["kind"] == target["kind"] and target.get("name", "") in ("", each["metadata"]["name"])
    ]
    if not chosen:
        raise ConfigError(f"{file}: there is no {target['kind']} {target.get('name', '')} to patch")
    if isinstance(content, dict) and content.items() >= DELETE.items():
        return [each for each in manifests if each not in chosen]
    return [_changed(each, content, str(file)) if each in chosen else each for each in manifests]


def _changed(manifest: Manifest, content: Any, where: str) -> Manifest:
    if isinstance(content, list):
        changed: Manifest = apply_operations(manifest, content, where)
        return changed
    return merge(manifest, content, where)


def _with_images(node: Any, images: Sequence[Mapping[str, str]]) -> Any:
    """The same with the images of all containers in it renamed."""
    if isinstance(node, list):
        return [_with_images(each, images) for each in node]
    if not isinstance(node, dict):
        return node
    result = {key: _with_images(value, images) for key, value in node.items()}
    for key in ("containers", "initContainers"):
        for container in result.get(key) or ():
            name, _, tag = str(container.get("image", "")).rpartition(":")
            for image in images:
                if name == image["name"]:
                    container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    return result


def _key(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


class _Plain(yaml.SafeDumper):
    """No anchors, and texts of several lines as they are read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)
