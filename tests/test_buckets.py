"""Checkpoints fetched from object stores: what is taken, once, into which place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow.fs import FileInfo, FileType, LocalFileSystem, SubTreeFileSystem

from symmoe.buckets import fetched
from symmoe.config import read_pool
from symmoe.errors import CheckpointError, PoolError
from symmoe.loading.sources import adapter_directory

SOURCE = "s3://models/tiny/v1"
PATTERNS = ("*.safetensors", "*.json")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """What stands in for the store: a folder with a checkpoint below its prefix, and more than is wanted."""
    below = tmp_path / "store" / "models" / "tiny" / "v1"
    (below / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "1_Pooling/config.json", "train.py"):
        (below / name).write_text(name * 100)
    return below


@pytest.fixture
def system(store: Path) -> Any:
    return SubTreeFileSystem(str(store.parents[2]), LocalFileSystem())


def names(directory: Path) -> set[str]:
    return {str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()}


def test_only_what_is_read_is_fetched_and_nothing_that_is_pickled(tmp_path: Path, store: Path, system: Any) -> None:
    here = fetched(SOURCE, tmp_path / "cache", PATTERNS, system)
    assert names(here) == {"config.json", "model.safetensors", "1_Pooling/config.json", "bucket.json"}
    assert (here / "model.safetensors").read_text() == (store / "model.safetensors").read_text()
    with_code = fetched(SOURCE, tmp_path / "cache", (*PATTERNS, "*.py"), system)
    assert names(with_code) - names(here) == {"train.py"}


def test_what_is_here_whole_is_never_asked_for_again_and_what_is_damaged_is(
    tmp_path: Path, store: Path, system: Any
) -> None:
    here = fetched(SOURCE, tmp_path / "cache", PATTERNS, system)
    (here / "model.safetensors").write_text("short")
    assert fetched(SOURCE, tmp_path / "cache", PATTERNS, system) == here
    assert (here / "model.safetensors").read_text() == (store / "model.safetensors").read_text()
    shutil.rmtree(store)
    assert fetched(SOURCE, tmp_path / "cache", PATTERNS, system) == here


def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path, store: Path, system: Any) -> None:
    cache = tmp_path / "cache"
    partial = cache / f"{fetched(SOURCE, cache, PATTERNS, system).name}.partial"
    shutil.rmtree(cache)
    partial.mkdir(parents=True)
    whole = (store / "config.json").read_text().upper()
    (partial / "config.json").write_text(whole)
    (partial / "model.safetensors").write_text("the first half")
    (partial / "model-of-before.safetensors").write_text("gone from there meanwhile")
    here = fetched(SOURCE, cache, PATTERNS, system)
    assert (here / "config.json").read_text() == whole
    assert (here / "model.safetensors").read_text() == (store / "model.safetensors").read_text()
    assert "model-of-before.safetensors" not in names(here)


class Hostile:
    """Tells of one object, under a name of its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get_file_info(self, selector: Any) -> list[FileInfo]:
        return [FileInfo(f"{selector.base_dir}/{self._name}", FileType.File, size=4)]


@pytest.mark.parametrize("name", ["../../other/model.safetensors", "a//model.safetensors", "..\\model.safetensors"])
def test_an_object_that_would_lie_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="outside of its directory"):
        fetched(SOURCE, tmp_path / "cache", PATTERNS, Hostile(name))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://models/tiny/v2", "cannot be fetched"),
        ("s3://models/tiny/v1/1_Pooling", "no safetensors there, but config"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(tmp_path: Path, system: Any, source: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        fetched(source, tmp_path / "cache", PATTERNS, system)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        ({"model": "s3://models"}, "neither a hub name"),
        ({"model": "s3://models/../other"}, "neither a hub name"),
        ({"model": SOURCE, "revision": "main"}, "another version in a bucket has another prefix"),
        ({"model": "org/base", "adapter": "hub:one"}, "nor hub:org/name"),
        ({"model": "org/base", "adapter": "s3://models"}, "nor hub:org/name"),
    ],
)
def test_a_pool_file_that_cannot_be_meant_is_refused(tmp_path: Path, expert: dict[str, str], said: str) -> None:
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump({"name": "own", "experts": [{"name": "a", **expert}]}))
    with pytest.raises(PoolError, match=said):
        read_pool(str(tmp_path / "pool.yaml"))


def test_an_adapter_on_a_hub_is_fetched_by_its_name_and_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith((".bin", ".py")) for pattern in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert adapter_directory("hub:org/poet", tmp_path, tmp_path) == tmp_path
    adapter_directory("hub:org/poet@v2", tmp_path, tmp_path)
    assert asked == [("org/poet", None), ("org/poet", "v2")]
