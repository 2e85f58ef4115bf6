"""ConfigMaps made of files, with a digest of their content in their names, as kustomize makes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HEX = str.maketrans("013ae", "ghkmt")
"""Kustomize spells five hex digits otherwise, so that no digest spells a word."""


def config_map(folder: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """One ConfigMap of a kustomization's `configMapGenerator`. Files are `NAME` or `KEY=PATH`."""
    data: dict[str, str] = {}
    for file in described.get("files", ()):
        key, _, path = file.rpartition("=")
        data[key or Path(path).name] = (folder / path).read_text(encoding="utf-8")
    for file in described.get("envs", ()):
        lines = (folder / file).read_text(encoding="utf-8").splitlines()
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    options = described.get("options", {})
    metadata: dict[str, Any] = {"name": described["name"]}
    for key in ("labels", "annotations"):
        if options.get(key):
            metadata[key] = dict(options[key])
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(sorted(data.items()))}


def hashed_name(manifest: Mapping[str, Any]) -> str:
    """The name with a digest of the content at its end."""
    name = manifest["metadata"]["name"]
    content = {"data": manifest["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":  # as Go's encoder writes them
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{name}-{digest[:10].translate(_HEX)}"


def renamed(manifest: Any, names: Mapping[str, str]) -> Any:
    """The manifest with other names of ConfigMaps wherever one is referred to."""
    if isinstance(manifest, list):
        return [renamed(each, names) for each in manifest]
    if not isinstance(manifest, dict):
        return manifest
    result = {key: renamed(value, names) for key, value in manifest.items()}
    for key in ("configMap", "configMapRef", "configMapKeyRef"):
        below = result.get(key)
        if isinstance(below, dict) and below.get("name") in names:
            result[key] = {**below, "name": names[below["name"]]}
    return result
