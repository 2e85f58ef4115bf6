"""`symmoe k8s`: manifests to apply, reasons to read, refusals to act on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from symmoe.yaml_text import load_yaml, load_yamls

from .conftest import Symmoe


def test_render_prints_manifests_with_the_reasons_as_comments(symmoe_command: Symmoe) -> None:
    said = symmoe_command("k8s", "render", "--pool", "small-2026", "--accelerator", "L4", "--nodes", "2")
    assert said.code == 0
    kinds = {each["kind"] for each in load_yamls(said.out)}
    assert {"RayService", "NetworkPolicy", "StatefulSet", "Job"} <= kinds
    assert any(line.startswith("# host tier: ") for line in said.out.splitlines())


def test_render_writes_a_folder_for_kubectl_and_helm_with_the_same_objects(
    symmoe_command: Symmoe, tmp_path: Path
) -> None:
    words = ("k8s", "render", "--pool", "symbolic-moe-16", "--accelerator", "H100", "--gpus-per-node", "8")
    told = symmoe_command(*words, "--out", tmp_path / "made")
    assert told.code == 0
    assert "mistral" in told.out
    assert "42 GiB" in told.out
    written = load_yamls((tmp_path / "made" / "manifests.yaml").read_text())
    assert written == load_yamls(symmoe_command(*words).out)
    assert {each.name for each in (tmp_path / "made").iterdir()} == {
        *("values.yaml", "sized.yaml", "manifests.yaml", "kustomization.yaml", "chart")
    }


EDITS = {
    'host: ""  # empty: a Valkey': 'host: "redis.example"  # empty: a Valkey',
    'host: ""\n  kind': 'host: "symmoe.example"\n  kind',
    'kind: "HTTPRoute"': 'kind: "Ingress"',
    'name: "symmoe"  # with its registry': 'name: "registry.example/symmoe"  # with its registry',
    'storage_class: ""  # empty: the cluster': 'storage_class: "shared"  # empty: the cluster',
}


def test_what_the_operator_edited_is_there_after_every_rendering(symmoe_command: Symmoe, tmp_path: Path) -> None:
    words = ("k8s", "render", "--out", tmp_path)
    assert symmoe_command(*words, "--pool", "tiny").code == 0
    values, kustomization = tmp_path / "values.yaml", tmp_path / "kustomization.yaml"
    text = values.read_text()
    for old, new in EDITS.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    values.write_text(f"{text}# mine\n")
    kustomization.write_text(f"{kustomization.read_text()}patches: []\n")
    for number in (1, 2, 3):
        assert symmoe_command(*words, "--nodes", str(number)).code == 0
        assert values.read_text() == f"{text}# mine\n".replace("nodes: 1 ", f"nodes: {number} ")
        assert kustomization.read_text().endswith("patches: []\n")
        made = (tmp_path / "manifests.yaml").read_text()
        for word in ("redis.example", "symmoe.example", "registry.example/symmoe", "storageClassName: shared"):
            assert word in made


@pytest.mark.parametrize(
    ("words", "effect", "patched"),
    [
        ("--nodes 2", "refused", True),
        ("--without-keys", "engines restart", False),
        ("--accelerator L4", "new cluster", False),
        ("--nodes 1", None, False),
    ],
)
def test_diff_says_what_starts_anew_and_writes_nothing(
    symmoe_command: Symmoe, tmp_path: Path, words: str, effect: str | None, patched: bool
) -> None:
    assert symmoe_command("k8s", "diff", "--out", tmp_path).code == 2
    symmoe_command("k8s", "render", "--pool", "tiny", "--out", tmp_path)
    before = {file: file.read_text() for file in tmp_path.iterdir() if file.is_file()}
    said = symmoe_command("k8s", "diff", "--out", tmp_path, *words.split(), "--json").json
    assert effect in {each["effect"] for each in said["changes"]} | {None if not said["changes"] else ""}
    assert (said["patch"] is not None) == patched
    assert before == {file: file.read_text() for file in before}


def test_diff_shows_every_changed_place_in_whole(
    symmoe_command: Symmoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    symmoe_command("k8s", "render", "--pool", "symbolic-moe-16", "--accelerator", "H100", "--out", tmp_path)
    words = ("k8s", "diff", "--out", tmp_path, "--pool", "small-2026")
    shown = symmoe_command(*words).out.splitlines()
    changes = symmoe_command(*words, "--json").json["changes"]
    assert sum(len(each["places"]) for each in changes) > 5
    for each in changes:
        at = shown.index(f"{each['what']}: {each['how']}, {each['effect']}")
        assert shown[at + 1 : at + 1 + len(each["places"])] == [f"  {place}" for place in each["places"]]


LONG = "an-expert-with-the-longest-name-of-all-that-a-pool-file-may-hold"


@pytest.mark.parametrize("words", ["k8s sizes --pool {}", "k8s render --pool {} --accelerator H100 --out {}.made"])
def test_tables_show_names_and_numbers_of_experts_in_whole_in_80_columns(
    symmoe_command: Symmoe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    file = tmp_path / "pool.yaml"
    experts = [{"name": name, "model": "Qwen/Qwen3-8B"} for name in ("deepseek-math", LONG)]
    file.write_text(yaml.safe_dump({"name": "own", "experts": experts, "engine": {"max_model_len": 16_384}}))
    said = symmoe_command(*words.format(file, file).split())
    assert said.code == 0
    assert "deepseek-math" in said.out
    assert LONG[:19] in said.out
    assert LONG[-4:] in said.out
    assert "16.4" in said.out
    assert "…" not in said.out


def test_more_nodes_come_by_a_patch_of_the_living_cluster(symmoe_command: Symmoe, tmp_path: Path) -> None:
    """KubeRay leaves the bounds of a RayCluster alone once it is there."""
    words = ("k8s", "render", "--pool", "small-2026", "--accelerator", "H100", "--out", tmp_path)
    symmoe_command(*words, "--nodes", "2")
    said = symmoe_command(*words, "--nodes", "4", "--json").json
    (change,) = said["changes"]
    assert change["effect"] == "replicas change"
    assert load_yaml(said["patch"]) == [{"op": "replace", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 4}]
    assert "patch raycluster" in symmoe_command(*words, "--nodes", "5").out


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


def test_an_expert_that_comes_or_goes_makes_no_new_cluster_and_another_model_does(
    symmoe_command: Symmoe, tmp_path: Path
) -> None:
    file, out = tmp_path / "pool.yaml", tmp_path / "made"
    three = [{"name": name, "model": "Qwen/Qwen3-8B"} for name in ("a", "b", "c")]
    rows = {each["name"]: {"overall": [5, 1], "skills": {}, "tokens": 9.0} for each in three}

    def effects(experts: list[dict[str, str]]) -> list[str]:
        described = {"name": "own", "experts": experts, "routing": {"profiles": "./mine.json"}}
        described["engine"] = {"host_tier_gib": 20}
        file.write_text(yaml.safe_dump(described))
        records = {each["name"]: rows[each["name"]] for each in experts}
        (tmp_path / "mine.json").write_text(json.dumps({"format": 2, "experts": records}))
        words = ("k8s", "render", "--pool", file, "--accelerator", "H100", "--out", out)
        return sorted({each["effect"] for each in symmoe_command(*words, "--json").json["changes"]})

    effects(three[:2])
    followed = ["experts come or go", "nothing restarts"]
    assert effects(three) == followed
    (pool,) = [m for m in load_yamls((out / "manifests.yaml").read_text()) if "symmoe-pool" in str(m["metadata"])]
    assert json.loads(pool["data"]["joined.json"])["experts"].keys() == {"c"}
    assert json.loads(pool["data"]["profiles.json"])["experts"].keys() == {"a", "b"}
    assert effects(three[1:]) == followed
    assert effects(three[:2]) == followed
    assert effects([*three[:2], three[2] | {"adapter": "hub:org/poet"}]) == followed
    assert effects(three[:2]) == followed
    assert "new cluster" in effects(
        [*three[:2], three[2] | {"adapter": "s3://bucket/poet"}]
    )  # no pod that serves has a key
    assert "new cluster" in effects([three[0], {"name": "b", "model": "Qwen/Qwen3-1.7B"}])


def test_fetch_leaves_out_what_cannot_be_had_and_what_is_remote(symmoe_command: Symmoe, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    experts: list[dict[str, object]] = [{"name": name, "model": f"./{name}"} for name in ("gone", "good")]
    far = {"name": "far", "model": "org/far", "remote": {"url": "https://far.example/v1"}}
    file = tmp_path / "pool.yaml"
    file.write_text(yaml.safe_dump({"name": "own", "experts": [*experts, far]}))
    assert symmoe_command("k8s", "fetch", "--pool", file).code == 2
    said = symmoe_command("k8s", "fetch", "--pool", file, "--leave-out", "--json")
    assert said.code == 0
    assert said.json["models"].keys() == {"good", "embedder"}
    assert said.json["missing"].keys() == {"gone"}
    (tmp_path / "good").rmdir()
    assert symmoe_command("k8s", "fetch", "--pool", file, "--leave-out").code == 2
