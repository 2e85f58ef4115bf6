"""Folders and files that only the user can access: what symmoe keeps holds questions, answers and digests of keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS = 0o077


def private_folder(path: Path) -> Path:
    """The folder, made with its parents if missing, and closed to other users.

    A folder of this user's that others may enter is closed to them. One with the sticky bit, such as `/tmp`, is meant
    for all and left as it is. Raises `OSError`.
    """
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    tighten(path)
    return path


def tighten(path: Path) -> None:
    """Remove other users' rights from this user's file or folder; one with the sticky bit is left as it is."""
    known = path.lstat()
    shared = stat.S_ISLNK(known.st_mode) or known.st_mode & stat.S_ISVTX
    if known.st_mode & _OTHERS and known.st_uid == os.geteuid() and not shared:
        path.chmod(stat.S_IMODE(known.st_mode) & ~_OTHERS)


def private_opener(path: str, flags: int) -> int:
    """For `open`: a new file is this user's only."""
    return os.open(path, flags, 0o600)


def synced(path: Path) -> None:
    """Have a file's contents, or a folder's names after a rename, on the disk. Raises `OSError`."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
