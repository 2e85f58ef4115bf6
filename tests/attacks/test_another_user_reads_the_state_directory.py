"""What symmoe keeps is open to its own user only, from the beginning and where an earlier version left it open."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.batches.files import Contents

from symmoe.batch.record import Files, job_lock
from symmoe.private import private_folder
from symmoe.quiet import output_to
from symmoe.store import open_store, stop_embedded
from tests.stores import connected


@pytest.fixture(autouse=True)
def usual_mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    paths = [folder, *folder.rglob("*")]
    return [f"{path} {path.stat().st_mode & 0o777:o}" for path in paths if path.stat().st_mode & 0o077]


def test_all_that_the_store_makes_is_closed(state: Path) -> None:
    store = open_store()
    store.put("t", {"a": {}})
    connected().bgrewriteaof()
    assert {path.name for path in state.iterdir()} >= {"appendonlydir", "valkey.lock", "valkey.log", "valkey.sock"}
    assert open_to_others(state) == []


def test_all_else_is_closed_whoever_comes_first(state: Path, tmp_path: Path) -> None:
    with output_to(state / "engine.log"):
        print("said")  # noqa: T201
    assert open_to_others(state) == []
    shutil.rmtree(state)
    files = Files(state / "out.jsonl")
    with job_lock(files):
        assert open_to_others(files.folder) == []
    shutil.rmtree(state)
    with Contents(state / "files")._beside(state / "files" / "file") as file:
        file.write(b"question")
    assert open_to_others(state) == []


def test_what_was_left_open_is_closed(state: Path) -> None:
    open_store().put("t", {"a": {}})
    assert stop_embedded()
    for path in (state, *state.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert open_store().rows("t") == {"a": {}}
    assert open_to_others(state) == []
    (state / "engine.log").write_text("before")
    state.chmod(0o755)
    with output_to(state / "engine.log"):
        pass
    assert open_to_others(state) == []


def test_a_folder_that_is_meant_for_all_stays_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    private_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_sees_nothing(state: Path) -> None:
    open_store().put("t", {"a": {"text": "secret"}})
    for folder in state.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/") and "pytest" in str(folder):
            folder.chmod(0o755)
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert subprocess.run([*other, "ls", state.parent], capture_output=True).returncode == 0
    for words in (["ls", state], ["cat", state / "valkey.log"], ["cat", state / "valkey.lock"]):
        assert subprocess.run([*other, *words], capture_output=True).returncode != 0
