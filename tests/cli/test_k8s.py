"""`symmoe k8s`: manifests to apply, reasons to read, refusals to act on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from symmoe.manifests.building import build

from .conftest import Symmoe


def test_render_prints_manifests_with_the_reasons_as_comments(symmoe_command: Symmoe) -> None:
    said = symmoe_command("k8s", "render", "--pool", "small-2026", "--accelerator", "L4", "--nodes", "2")
    assert said.code == 0
    kinds = {each["kind"] for each in yaml.safe_load_all(said.out)}
    assert {"RayService", "NetworkPolicy", "StatefulSet", "PrometheusRule"} <= kinds
    assert any(line.startswith("# host tier: ") for line in said.out.splitlines())


def test_render_writes_kustomizations_that_build_to_the_same(symmoe_command: Symmoe, tmp_path: Path) -> None:
    words = ("k8s", "render", "--pool", "symbolic-moe-16", "--accelerator", "H100", "--gpus-per-node", "8")
    told = symmoe_command(*words, "--out", tmp_path / "made")
    assert told.code == 0
    assert "mistral" in told.out
    assert "42 GiB" in told.out
    assert build(tmp_path / "made" / "overlays" / "gpu") == list(yaml.safe_load_all(symmoe_command(*words).out))
    assert not list((tmp_path / "made").rglob("*.py"))


def test_production_has_no_redis_of_its_own(symmoe_command: Symmoe) -> None:
    words = ("k8s", "render", "--pool", "small-2026", "--accelerator", "H100", "--production")
    kinds = [each["kind"] for each in yaml.safe_load_all(symmoe_command(*words).out)]
    assert "StatefulSet" not in kinds
    assert "Ingress" in kinds
    assert symmoe_command("k8s", "render", "--production").code == 2


def test_what_does_not_fit_is_refused_with_what_would(symmoe_command: Symmoe) -> None:
    said = symmoe_command("k8s", "render", "--pool", "symbolic-moe-16", "--accelerator", "L4")
    assert said.code == 2
    assert said.out == ""
    assert "mistral needs 29.4 GB" in said.errors[0]
    assert "tensor_parallel_size: 2" in said.err


@pytest.mark.parametrize("words", ["k8s render --accelerator X9", "k8s render --nodes 0", "k8s sizes --pool none.yaml"])
def test_bad_input_is_refused(symmoe_command: Symmoe, words: str) -> None:
    assert symmoe_command(*words.split()).code == 2


def test_sizes_names_the_smallest_accelerator_for_each_expert(symmoe_command: Symmoe) -> None:
    said = symmoe_command("k8s", "sizes", "--pool", "symbolic-moe-16", "--json")
    by_expert = {each["expert"]: each for each in said.json["experts"]}
    assert by_expert["mistral"]["smallest"] == "A100-40"
    assert by_expert["llama"]["smallest"] == "L4"
    assert by_expert["llama"]["kv_bytes_per_token"] == 131_072
