"""`symmoe pool pack` on a model of two tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from symmoe.config import cache_dir
from symmoe.loading.packed.checkpoint import PackedCheckpoint

from ..loading.conftest import TARGET, lora, write_adapter
from .conftest import Symmoe


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    """A pool of a base and of the base with an adapter."""
    folder = tmp_path / "real"
    (folder / "base").mkdir(parents=True)
    tensors = {f"{TARGET}.weight": np.ones((6, 4), np.float32), "model.norm.weight": np.ones(4, np.float32)}
    save_file(tensors, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text('{"hidden_size": 4}', encoding="utf-8")
    write_adapter(folder / "adapter", lora())
    experts = [{"name": "plain", "model": "./base"}, {"name": "fitted", "model": "./base", "adapter": "./adapter"}]
    path = folder / "pool.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "experts": experts}), encoding="utf-8")
    return path


def states(document: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {pack["expert"]: pack["state"] for pack in document["packs"]}


def test_every_expert_is_packed_into_the_cache_and_kept_the_next_time(symmoe_command: Symmoe, pool_file: Path) -> None:
    first = symmoe_command("pool", "pack", "--pool", pool_file, "--json").json
    assert states(first) == {"plain": "packed", "fitted": "packed"}
    assert first["folder"] == str(cache_dir() / "packed" / "small")
    for pack in first["packs"]:
        assert Path(pack["path"]).stat().st_size == pack["bytes"]
        with PackedCheckpoint.open(Path(pack["path"])) as packed:
            assert bool(packed.manifest.adapter) == (pack["expert"] == "fitted")
    again = symmoe_command("pool", "pack", "--pool", pool_file, "--json").json
    assert states(again) == {"plain": "kept", "fitted": "kept"}


@pytest.mark.parametrize("words", ["pool pack", "k8s fetch --pack"])
def test_an_expert_that_is_served_elsewhere_has_nothing_to_pack(
    symmoe_command: Symmoe, pool_file: Path, words: str
) -> None:
    described = yaml.safe_load(pool_file.read_text())
    described["experts"].append({"name": "far", "model": "org/far", "remote": {"url": "https://far.example/v1"}})
    pool_file.write_text(yaml.safe_dump(described))
    said = symmoe_command(*words.split(), "--pool", pool_file, "--json")
    assert states(said.json) == {"plain": "packed", "fitted": "packed"}


def test_only_the_experts_that_are_named_are_packed(symmoe_command: Symmoe, pool_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "packs"
    words = ("pool", "pack", "--pool", pool_file, "--out", out, "--expert", "fitted", "--expert", "fitted")
    said = symmoe_command(*words)
    assert said.code == 0
    assert "fitted" in said.out
    assert "plain" not in said.out
    assert len(list(out.glob("*.pack"))) == 1


def test_an_altered_pack_is_made_again_under_verify(symmoe_command: Symmoe, pool_file: Path) -> None:
    packs = symmoe_command("pool", "pack", "--pool", pool_file, "--json").json["packs"]
    path = Path(packs[0]["path"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096] + b"x" + whole[-4095:])
    assert states(symmoe_command("pool", "pack", "--pool", pool_file, "--json").json)["plain"] == "kept"
    said = symmoe_command("pool", "pack", "--pool", pool_file, "--verify", "--json")
    assert states(said.json) == {"plain": "replaced", "fitted": "kept"}
    assert path.read_bytes() == whole


def test_a_pack_of_other_weights_is_not_taken_for_one_of_these(symmoe_command: Symmoe, pool_file: Path) -> None:
    before = symmoe_command("pool", "pack", "--pool", pool_file, "--json").json["packs"]
    write_adapter(pool_file.parent / "adapter", lora(), lora_alpha=5)
    after = symmoe_command("pool", "pack", "--pool", pool_file, "--json").json
    assert states(after) == {"plain": "kept", "fitted": "packed"}
    assert after["packs"][1]["path"] != before[1]["path"]
    assert after["pruned"] == [before[1]["path"]]
    assert sorted(Path(before[1]["path"]).parent.glob("*.pack")) == sorted(Path(p["path"]) for p in after["packs"])


def test_of_a_folder_of_one_s_own_only_the_packs_of_experts_packed_now_are_removed(
    symmoe_command: Symmoe, pool_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "packs"
    folder.mkdir()
    mine, other = folder / "plain-0123456789ab.pack", folder / "plain-more-0123456789ab.pack"
    for path in (mine, other, folder / "notes.pack"):
        path.touch()
    said = symmoe_command("pool", "pack", "--pool", pool_file, "--out", folder, "--expert", "plain", "--json").json
    assert said["pruned"] == [str(mine)]
    assert other.exists()


def test_in_the_cache_packs_of_experts_that_are_no_more_go_even_where_only_one_expert_is_named(
    symmoe_command: Symmoe, pool_file: Path
) -> None:
    packed = symmoe_command("pool", "pack", "--pool", pool_file, "--json").json
    folder = Path(packed["folder"])
    earlier, gone = folder / "plain-0123456789ab.pack", folder / "dismissed-0123456789ab.pack"
    of_another = folder / "fitted-0123456789ab.pack"
    for path in (earlier, gone, of_another):
        path.touch()
    said = symmoe_command("pool", "pack", "--pool", pool_file, "--expert", "plain", "--json").json
    assert sorted(said["pruned"]) == sorted(map(str, (earlier, gone)))
    assert of_another.exists()  # whether it is of earlier weights is known when its expert is packed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--expert", "nobody"], "no expert 'nobody'"),
        (["--out", "{pool}"], "File exists"),
    ],
)
def test_what_cannot_be_packed_is_one_line_of_error(
    symmoe_command: Symmoe, pool_file: Path, words: list[str], says: str
) -> None:
    said = symmoe_command("pool", "pack", "--pool", pool_file, *(word.format(pool=pool_file) for word in words))
    assert said.code
    (error,) = said.errors
    assert says in error


def test_weights_that_were_cut_short_are_not_packed(symmoe_command: Symmoe, pool_file: Path, tmp_path: Path) -> None:
    weights = pool_file.parent / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    said = symmoe_command("pool", "pack", "--pool", pool_file, "--out", tmp_path / "packs")
    assert said.code == 2
    assert "corrupt or truncated" in said.errors[0]
    assert not (tmp_path / "packs").exists()


def test_echo_experts_have_nothing_to_pack(symmoe_command: Symmoe, pool: Path) -> None:
    said = symmoe_command("pool", "pack", "--pool", pool)
    assert said.code == 2
    assert "no weights to pack" in said.errors[0]
