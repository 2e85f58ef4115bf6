from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from symmoe.errors import CheckpointError
from symmoe.loading.merge import merged_weights
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import Layout
from symmoe.loading.packed.writing import ensure_packed, packed_path, write_pack

from .conftest import CHUNK, image_of, llama, same_bits, write_model


@pytest.fixture
def layout(model: Path) -> Layout:
    return Layout.of(str(model), chunk_bytes=CHUNK)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns


def test_a_pack_holds_the_merged_weights_and_their_checksums(model: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "expert.pack"
    manifest = write_pack(Layout.of(str(model), str(adapter)), out)
    wanted = dict(merged_weights(str(model), str(adapter)))
    with PackedCheckpoint.open(out, "full") as packed:
        assert packed.manifest == manifest
        tensors = dict(packed.tensors())
        assert tensors.keys() == wanted.keys()
        assert all(same_bits(tensors[name], wanted[name]) for name in wanted)
    assert names_in(out.parent) == ["expert.pack"]


def test_a_pack_is_the_image_that_is_built_in_memory(layout: Layout, tmp_path: Path) -> None:
    write_pack(layout, tmp_path / "one.pack")
    assert (tmp_path / "one.pack").read_bytes() == image_of(layout, digests=True)


def test_the_name_of_a_pack_tells_what_it_was_made_of(model: Path, adapter: Path, tmp_path: Path) -> None:
    def name(model: Path, adapter: Path | None = None) -> str:
        return packed_path(tmp_path, "a", Layout.of(str(model), str(adapter) if adapter else None).manifest).name

    retrained = write_model(tmp_path / "retrained", llama(seed=1))
    stretched = write_model(tmp_path / "stretched", llama(), rope_parameters={"rope_theta": 1.0})
    names = [name(model), name(model, adapter), name(retrained), name(stretched)]
    assert len(set(names)) == 4
    assert name(model) == names[0]
    assert all(name.startswith("a-") and name.endswith(".pack") and len(name) == len("a-.pack") + 12 for name in names)


def test_a_whole_pack_is_kept_as_it_is(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "one.pack"
    assert ensure_packed(layout, path) == "packed"
    before = identity(path)
    assert ensure_packed(layout, path) == "kept"
    assert ensure_packed(layout, path, verify=True) == "kept"
    assert identity(path) == before


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "another expert", "no checksums"])
def test_a_pack_that_is_not_whole_is_made_again(layout: Layout, adapter: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "one.pack"
    write_pack(layout, path)
    whole = path.read_bytes()
    if damage == "cut":
        os.truncate(path, len(whole) - 1)
    elif damage == "header":
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "another expert":
        write_pack(Layout.of(str(tmp_path / "model"), str(adapter)), path)
    else:
        path.write_bytes(image_of(layout))
    assert ensure_packed(layout, path) == "replaced"
    assert path.read_bytes() == whole


def test_altered_data_is_met_when_asked_for(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "one.pack"
    write_pack(layout, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5000] + bytes([whole[-5000] ^ 1]) + whole[-4999:])
    assert ensure_packed(layout, path) == "kept"
    assert ensure_packed(layout, path, verify=True) == "replaced"
    assert path.read_bytes() == whole


def test_an_interrupted_pack_leaves_nothing_and_harms_nothing(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "packs" / "one.pack"
    write_pack(layout, path)
    before = path.read_bytes()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(layout, path, interrupt)
    assert names_in(path.parent) == ["one.pack"]
    assert path.read_bytes() == before


def test_what_a_killed_pack_left_is_no_hindrance(layout: Layout, tmp_path: Path) -> None:
    folder = tmp_path / "packs"
    folder.mkdir()
    (folder / ".one.pack.partial").write_bytes(b"x" * (layout.nbytes + 999))
    write_pack(layout, folder / "one.pack")
    assert names_in(folder) == ["one.pack"]
    assert (folder / "one.pack").read_bytes() == image_of(layout, digests=True)


def test_two_who_write_one_pack_leave_one_that_is_whole(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "packs" / "one.pack"
    failed: list[BaseException] = []

    def write() -> None:
        try:
            write_pack(layout, path)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert names_in(path.parent) == ["one.pack"]
    assert path.read_bytes() == image_of(layout, digests=True)


@contextmanager
def small_files_only() -> Iterator[None]:
    """Files may not grow beyond 4 KiB, as on a disk that is full.

    Not a fixture: pytest reports while fixtures stand, and its own output may be a file of more than that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_said_before_anything_is_written(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "packs" / "one.pack"
    no_room = pytest.raises(CheckpointError, match=rf"one\.pack: no room for its {layout.nbytes} bytes")
    with no_room as caught, small_files_only():
        write_pack(layout, path)
    assert "--out" in (caught.value.hint or "")
    assert names_in(path.parent) == []
