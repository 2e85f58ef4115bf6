from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from symmoe.config import PRESETS, cache_dir, read_pool
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.yaml_text import load_yaml

from ..conftest import echo_pool
from ..loading.conftest import TARGET, lora, write_adapter
from .conftest import Symmoe


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model directory of one small tensor."""
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 8), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def pool_of(folder: Path, **expert: str) -> Path:
    path = folder / "pool.yaml"
    path.write_text(yaml.safe_dump({"name": "p", "experts": [{"name": "a", "model": "./base"} | expert]}))
    return path


def test_list_names_every_shipped_pool(symmoe_command: Symmoe) -> None:
    said = symmoe_command("pool", "list", "--json")
    assert [row["name"] for row in said.json] == ["starter", "tiny", *PRESETS]
    assert {row["name"]: row["experts"] for row in said.json}["symbolic-moe-16"] == 16
    assert all(name in symmoe_command("pool", "list").out for name in PRESETS)


def test_show_gives_the_experts_of_a_pool(symmoe_command: Symmoe, pool: Path) -> None:
    said = symmoe_command("pool", "show", pool, "--json")
    assert [expert["name"] for expert in said.json["experts"]] == ["adder", "speaker", "sorter"]
    table = symmoe_command("pool", "show", pool).out
    assert all(name in table for name in ("adder", "speaker", "sorter"))


@pytest.mark.parametrize("name", ["starter", *PRESETS])
def test_show_cuts_no_name_in_80_columns(symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = symmoe_command("pool", "show", name).out
    assert "…" not in shown
    for expert in read_pool(name).experts:
        assert expert.name in shown
        assert all(part in shown for part in expert.model.split("/"))
        assert expert.adapter is None or expert.adapter in shown


def test_show_gives_the_accuracy_that_an_adapters_card_records(symmoe_command: Symmoe, pool: Path) -> None:
    (pool.parent / "adder").mkdir()
    card = {"accuracy": {"own": 0.875}}
    (pool.parent / "adder" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    assert symmoe_command("pool", "show", pool, "--json").json["cards"] == {"adder": card}
    assert "87.5" in symmoe_command("pool", "show", pool).out


def test_check_accepts_a_good_pool(symmoe_command: Symmoe, pool: Path) -> None:
    said = symmoe_command("pool", "check", pool, "--json")
    assert (said.code, said.json) == (0, {"pool": "echoes", "experts": 3, "ok": True, "notes": []})
    assert "all good" in symmoe_command("pool", "check", pool).out


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        pytest.param({"colour": "red"}, "colour: unknown key", id="unknown key"),
        pytest.param({"engine": {"kindle": 1}}, "engine.kindle: unknown key", id="unknown key inside"),
        pytest.param({"root": "/"}, "root: unknown key", id="root"),
        pytest.param(
            {"experts": [{"name": "a", "model": "o/m"}, {"name": "a", "model": "o/n"}]},
            "two experts are named 'a'",
            id="duplicate names",
        ),
        pytest.param({"experts": []}, "experts: ", id="no experts"),
        pytest.param({"experts": [{"name": "a"}]}, "experts.0.model: Field required", id="no model"),
        pytest.param({"experts": [{"name": "a", "model": "m"}]}, "neither a hub name", id="no source"),
        pytest.param({"experts": [{"name": "a b", "model": "o/m"}]}, "experts.0.name", id="name with a space"),
        pytest.param({"engine": {"kind": "other"}}, "engine.kind", id="unknown engine"),
        pytest.param({"routing": {"k": 0}}, "routing.k", id="k 0"),
        pytest.param({"routing": {"fallback": "nobody"}}, "no expert 'nobody'", id="unknown fallback"),
        pytest.param({"routing": {"profiles": "./none.json"}}, "none.json", id="missing profiles"),
        pytest.param({"name": ["x"]}, "name: ", id="name a list"),
    ],
)
def test_check_says_in_one_line_what_is_wrong_with_a_pool(
    symmoe_command: Symmoe, tmp_path: Path, sections: dict[str, object], says: str
) -> None:
    path = echo_pool(tmp_path)
    document = load_yaml(path.read_text(encoding="utf-8"))
    for key, value in sections.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    said = symmoe_command("pool", "check", path)
    assert said.code == 2
    assert said.out == ""
    (error,) = said.errors
    assert says in error


@pytest.mark.parametrize("content", ["[1, 2]", "name: [", "\x00", "", "a: b: c"])
def test_check_says_in_one_line_that_a_file_is_no_pool(symmoe_command: Symmoe, tmp_path: Path, content: str) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(content, encoding="utf-8")
    said = symmoe_command("pool", "check", path)
    assert said.code == 2
    assert len(said.errors) == 1
    assert str(path) in said.errors[0]


def test_check_says_that_a_file_is_not_utf8(symmoe_command: Symmoe, tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_bytes(b"name: \xff")
    said = symmoe_command("pool", "check", tmp_path / "pool.yaml")
    assert (said.code, len(said.errors)) == (2, 1)


def test_check_accepts_local_weights(symmoe_command: Symmoe, base: Path) -> None:
    assert symmoe_command("pool", "check", pool_of(base.parent), "--json").json["ok"]


def test_check_names_an_adapter_that_is_missing(symmoe_command: Symmoe, base: Path) -> None:
    said = symmoe_command("pool", "check", pool_of(base.parent, adapter="./gone"))
    assert said.code == 2
    (error,) = said.errors
    assert error.endswith("gone: no such adapter directory")


def test_check_names_a_model_directory_that_is_missing(symmoe_command: Symmoe, base: Path) -> None:
    said = symmoe_command("pool", "check", pool_of(base.parent, model="./gone"))
    assert said.code == 2
    (error,) = said.errors
    assert error.endswith("gone: no such model directory")


def test_check_names_weights_that_are_cut_short(symmoe_command: Symmoe, base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    said = symmoe_command("pool", "check", pool_of(base.parent))
    assert said.code == 2
    (error,) = said.errors
    assert "model.safetensors: corrupt or truncated" in error


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("preset", PRESETS)
def test_check_of_a_preset_needs_no_network(symmoe_command: Symmoe, preset: str) -> None:
    said = symmoe_command("pool", "check", preset, "--json")
    assert said.code == 0
    assert said.json["ok"]
    assert len([note for note in said.json["notes"] if "was not downloaded" in note]) == said.json["experts"]


@pytest.mark.parametrize("preset", PRESETS)
def test_init_writes_a_file_that_check_accepts(symmoe_command: Symmoe, tmp_path: Path, preset: str) -> None:
    path = tmp_path / "new" / "pool.yaml"
    assert symmoe_command("pool", "init", path, "--preset", preset).code == 0
    assert symmoe_command("pool", "check", path).code == 0


def test_init_from_the_starter_keeps_its_adapters_where_they_are(symmoe_command: Symmoe, tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    assert symmoe_command("pool", "init", path, "--preset", "starter").code == 0
    starter, written = read_pool("tiny"), read_pool(str(path))
    for name in starter.names:
        before, after = starter.expert(name).adapter, written.expert(name).adapter
        assert (before is None) == (after is None)
        if before and after:
            assert starter.path(before).resolve() == written.path(after)


def test_init_overwrites_nothing_unless_forced(symmoe_command: Symmoe, tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text("mine", encoding="utf-8")
    said = symmoe_command("pool", "init", path)
    assert said.code == 2
    assert len(said.errors) == 1
    assert "--force" in said.err
    assert path.read_text(encoding="utf-8") == "mine"
    assert symmoe_command("pool", "init", path, "--force").code == 0
    assert read_pool(str(path)).name == "small-2026"


def test_init_from_no_preset_names_those_there_are(symmoe_command: Symmoe, tmp_path: Path) -> None:
    said = symmoe_command("pool", "init", tmp_path / "pool.yaml", "--preset", "none")
    assert said.code == 2
    assert all(preset in said.err for preset in PRESETS)
    assert not (tmp_path / "pool.yaml").exists()


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
    described = load_yaml(pool_file.read_text())
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
