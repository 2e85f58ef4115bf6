"""Kustomizations built here and by kustomize itself are the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from symmoe.errors import ConfigError
from symmoe.manifests.building import build, to_yaml

OVERLAYS = Path(__file__).parents[2] / "k8s" / "overlays"


def by_name(manifests: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which carries kustomize, is not installed")
@pytest.mark.parametrize("name", ["cpu", "gpu", "production"])
def test_kustomize_builds_the_same(name: str) -> None:
    words = ["kubectl", "kustomize", str(OVERLAYS / name)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    theirs = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert by_name(build(OVERLAYS / name)) == by_name(theirs)


def test_a_changed_pool_is_another_config_map_and_the_pods_refer_to_it(tmp_path: Path) -> None:
    shutil.copytree(OVERLAYS.parent, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "cpu"
    before = by_name(build(overlay))
    (overlay / "pool.yaml").write_text((overlay / "pool.yaml").read_text() + "# one more expert\n")
    after = by_name(build(overlay))
    (old,) = before.keys() - after.keys()
    (new,) = after.keys() - before.keys()
    assert old[1] != new[1]
    volumes = after["RayService", "symmoe"]["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {"name": "pool", "configMap": {"name": new[1]}} in volumes


def test_what_is_not_supported_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\nreplacements: []\n")
    with pytest.raises(ConfigError, match="replacements"):
        build(tmp_path)


def test_a_patch_without_a_target_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("kind: Kustomization\npatches: [{path: patch.yaml}]\n")
    (tmp_path / "patch.yaml").write_text("kind: Service\nmetadata: {name: gone}\n")
    with pytest.raises(ConfigError, match="there is no Service gone"):
        build(tmp_path)


def test_the_stream_reads_back_as_it_was() -> None:
    manifests = build(OVERLAYS / "production")
    assert list(yaml.safe_load_all(to_yaml(manifests))) == manifests
