"""A folder that no other user can enter, for the life of this process; it also removes what killed runs left."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import Any

from symmoe.config import state_dir
from symmoe.errors import JobError

MARK = "SYMMOE_RUN_FOLDER"
"""Processes with this in their environment belong to the folder that it names, and end with it."""
_PREFIX = "symmoe-run-"
_RANDOM_BYTES = 8
_ALIVE = "alive"
"""A file that the owner holds locked: the lock ends with the process, however that ends."""
_TITLES = ("ray::", "VLLM::")


@contextmanager
def private_folder(longest: int = 4096) -> Iterator[Path]:
    """An empty folder of mode 0700 whose path has at most `longest` bytes, removed when the block ends.

    Folders of killed runs are removed first, with their processes that still run. Raises `JobError` if in every place
    for temporary files other users could replace the folder.
    """
    place = _place(longest)
    sweep(place)
    folder, lock = _made(place)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def check_private(folder: Path) -> None:
    """Raise `JobError` unless a folder is this user's, and nobody else can read or enter it."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise JobError(f"{folder}: other users can enter it", hint="set TMPDIR to a folder that only you can write to")


def sweep(place: Path) -> None:
    """Remove what killed runs of this user left in a folder of temporary files, and end their processes."""
    for entry in os.scandir(place):
        with suppress(OSError):  # a link, another user's, one that somebody else is just removing
            if entry.name.startswith(_PREFIX) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                _sweep_one(place / entry.name)


def _sweep_one(folder: Path) -> None:
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock = os.open(_ALIVE, os.O_RDWR | os.O_NOFOLLOW, dir_fd=inside)
    finally:
        os.close(inside)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where the owner lives
        _end_processes_of(folder)
        _remove(folder)
    finally:
        os.close(lock)


def _end_processes_of(folder: Path) -> None:
    """End this user's processes that were started for a folder. Ray's own look for their dead parents for a minute."""
    try:
        import psutil
    except ModuleNotFoundError:  # then Ray is not installed either
        return
    ended = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has ended, or is not this user's
            if process.uids().real == os.getuid() and _belongs(process, f"{folder}/"):
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=5)


def _belongs(process: Any, inside: str) -> bool:
    """Whether a process was started for a folder and serves nobody else, which a store that was started there does.

    It is marked, and one of its words is a path in the folder; or it has the title of a worker, which takes the place
    of words and marks, and has a file there open: its log.
    """
    words = process.cmdline()
    if words and words[0].startswith(_TITLES):
        return any(file.path.startswith(inside) for file in process.open_files())
    return any(inside in word for word in words) and f"{process.environ().get(MARK)}/" == inside


def _place(longest: int) -> Path:
    """Where temporary files go and nobody can replace those of others; `TMPDIR` if it is such a place."""
    refused = ""
    for place in dict.fromkeys((Path(gettempdir()), Path("/tmp"), state_dir())):  # noqa: S108
        if len(os.fsencode(place)) + len(f"/{_PREFIX}") + _RANDOM_BYTES > longest or not place.is_dir():
            continue
        loose = next(
            (parent for parent in (place.resolve(), *place.resolve().parents) if others_can_move(parent)), None
        )
        if loose is None:
            return place
        refused = f"{loose}: others can move what lies in it (writable for them, and not sticky)"
    raise JobError(
        refused or "no folder for temporary files has a path short enough for Ray's sockets",
        hint="set TMPDIR to a folder with a short path that only you can write to",
    )


def others_can_move(folder: Path) -> bool:
    """Whether other users of this machine can rename or remove what is in `folder`."""
    mode = folder.stat().st_mode
    return bool(mode & (stat.S_IWGRP | stat.S_IWOTH)) and not mode & stat.S_ISVTX


def _made(place: Path) -> tuple[Path, int]:
    """A new folder, and the lock that says that its owner lives."""
    folder = Path(mkdtemp(prefix=_PREFIX, dir=place))
    check_private(folder)
    lock = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / "new", folder / _ALIVE)  # under this name it has never been unlocked
    return folder, lock


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: what cannot go now, for a process writes its last words, goes the next time."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _ALIVE:
                os.unlink(entry.path)
        if os.listdir(folder) == [_ALIVE]:
            shutil.rmtree(folder, ignore_errors=True)
