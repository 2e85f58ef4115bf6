"""Packed checkpoints on disk: written atomically, and found by the digests of their sources."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from symmoe.errors import CheckpointError
from symmoe.loading.packed.checkpoint import PackedCheckpoint, Verify
from symmoe.loading.packed.layout import Layout, Progress
from symmoe.loading.packed.manifest import VERSION, Manifest
from symmoe.private import synced

_PACK = re.compile(r"(.+)-[0-9a-f]{12}\.pack")
Packing = Literal["packed", "kept", "replaced"]


def packed_path(folder: Path, expert: str, manifest: Manifest) -> Path:
    """Where an expert's pack is. Its name contains a digest of its sources, so that no pack of others is used."""
    return folder / f"{expert}-{_digest(manifest)}.pack"


def find_packed(folder: Path, manifest: Manifest) -> Path | None:
    """A pack of these weights in the folder, whichever expert it was made for."""
    return next(iter(sorted(folder.glob(f"*-{_digest(manifest)}.pack"))), None)


def ensure_packed(layout: Layout, path: Path, verify: bool = False, progress: Progress | None = None) -> Packing:
    """Pack unless a complete file of the same sources exists; an incomplete one is replaced.

    Size and header are always checked, the data only with `verify`. Raises `CheckpointError`.
    """
    existed = path.exists()
    if existed and _is_good(path, layout.manifest, "full" if verify else "header"):
        return "kept"
    write_pack(layout, path, progress)
    return "replaced" if existed else "packed"


def prune(folder: Path, kept: Collection[Path], whose: Callable[[str], bool] = lambda expert: True) -> list[Path]:
    """Remove the packs of the given experts except those `kept`: they were made of earlier weights.

    A process that has one mapped keeps it until it closes it. Returns what was removed.
    """
    owned = {path: named[1] for path in sorted(folder.glob("*.pack")) if (named := _PACK.fullmatch(path.name))}
    old = [path for path, expert in owned.items() if path not in kept and whose(expert)]
    if old:
        with _alone(folder):
            for path in old:
                path.unlink(missing_ok=True)
    return old


def write_pack(layout: Layout, out: Path, progress: Progress | None = None) -> Manifest:
    """Write an image with checksums beside `out`, and rename it once it is safely on disk.

    Raises `CheckpointError` if the disk is full or a source cannot be read, leaving nothing behind.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    with _alone(out.parent):
        try:
            with partial.open("w+b") as file:
                manifest = _fill(file, layout, out, progress)
            os.replace(partial, out)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        synced(out.parent)
    return manifest


def _is_good(path: Path, wanted: Manifest, verify: Verify) -> bool:
    with suppress(CheckpointError), PackedCheckpoint.open(path, verify) as checkpoint:
        return bool(checkpoint.manifest.with_chunks(()) == wanted and checkpoint.manifest.chunks)
    return False


def _fill(file: BinaryIO, layout: Layout, out: Path, progress: Progress | None) -> Manifest:
    _reserve(file, layout.nbytes, out)
    mapped = mmap.mmap(file.fileno(), layout.nbytes)
    try:
        manifest = layout.write_into(memoryview(mapped), progress, digests=True)
        mapped.flush()
        os.fsync(file.fileno())
    finally:
        with suppress(BufferError):  # an error's traceback may hold views; the map then goes with them
            mapped.close()
    return manifest


def _reserve(file: BinaryIO, size: int, out: Path) -> None:
    """Have the blocks before they are written through a map, where a full disk would kill the process."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise CheckpointError(
            f"{out}: no room for its {size} bytes ({error.strerror})" if full else f"{out}: {error.strerror}",
            hint="free some space, or name another directory with --out" if full else None,
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time in a folder; the kernel frees the lock of one that died."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(f"{VERSION} {manifest.key}".encode()).hexdigest()[:12]
