"""A wheel that travels in parts."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.wheel_parts import PartsError, join, main, split

FILES = {"big/__init__.py": b"import big.kept", "big/kept.py": b"WORD = 'kept'\n" * 500, "big/sm_100.so": bytes(90_000)}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "big-1.0-py3-none-any.whl"
    about = "big-1.0.dist-info"
    described = {
        f"{about}/METADATA": b"Metadata-Version: 2.1\nName: big\nVersion: 1.0\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*FILES, *described, f"{about}/RECORD")).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**FILES, **described, f"{about}/RECORD": record}.items():
            archive.writestr(name, data)
    return path


def test_a_wheel_joined_from_its_parts_installs_without_what_was_dropped(wheel: Path, tmp_path: Path) -> None:
    parts = split(wheel, tmp_path / "parts", part_bytes=200, drop=["*sm_100*"])
    assert len(parts) > 1
    assert all(part.stat().st_size <= 200 for part in parts)
    joined = join(tmp_path / "parts")
    assert joined.name == wheel.name
    target = tmp_path / "installed"
    words = [sys.executable, "-m", "uv", "pip", "install", "-q", "--offline", "--no-deps", "--target", str(target)]
    subprocess.run([*words, str(joined)], check=True)
    assert (target / "big/kept.py").read_bytes() == FILES["big/kept.py"]
    assert not (target / "big/sm_100.so").exists()
    assert "sm_100" not in (target / "big-1.0.dist-info/RECORD").read_text()


@pytest.mark.parametrize(("harm", "words"), [("lost", "is missing"), ("torn", "is not what was split")])
def test_a_part_that_is_lost_or_torn_is_named(wheel: Path, tmp_path: Path, harm: str, words: str) -> None:
    part = split(wheel, tmp_path / "parts", part_bytes=200)[1]
    if harm == "lost":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(PartsError, match=f"part-001: {words}"):
        join(tmp_path / "parts")
    assert not (tmp_path / "parts" / wheel.name).exists()


def test_what_says_how_to_install_it_cannot_be_dropped(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(PartsError, match="without which nothing can be installed"):
        split(wheel, tmp_path / "parts", part_bytes=200, drop=["*"])


def test_what_is_no_wheel_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.whl").write_text("no wheel")
    assert main(["split", str(tmp_path / "no.whl"), str(tmp_path / "parts")]) == 2
    assert "cannot be read as a wheel" in capsys.readouterr().err
