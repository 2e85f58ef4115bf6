"""The contents of files, in one folder. Every ingress machine must see the same: there it is a shared volume."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from symmoe.private import private_folder, private_opener

from .ids import FILE, is_id

_PARTIAL = ".partial"
_FORGOTTEN = 86400.0


class Contents:
    """Files named by ids only; what a client calls its file is part of no path.

    They appear whole, by rename, once they are on the disk. The folder is made with the first file: where there is
    none, no batch was ever asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def any(self) -> bool:
        """Whether there ever was a file."""
        return self._folder.is_dir()

    def path(self, ident: str) -> Path:
        """Where a file's contents are, or would be."""
        if not is_id(ident, FILE):
            raise ValueError("not the id of a file")
        return self._folder / ident

    @asynccontextmanager
    async def writing(self, ident: str) -> AsyncIterator[BinaryIO]:
        """Write a file's contents; nothing is left of them if the block raises. Writing itself blocks on the disk."""
        beside = self._beside(self.path(ident))
        file = await asyncio.to_thread(beside.__enter__)
        try:
            yield file
        except BaseException as error:
            await asyncio.to_thread(beside.__exit__, type(error), error, error.__traceback__)
            raise
        await asyncio.to_thread(beside.__exit__, None, None, None)

    @contextmanager
    def _beside(self, path: Path) -> Iterator[BinaryIO]:
        private_folder(self._folder)
        partial = self._folder / f"{path.name}.{os.urandom(4).hex()}{_PARTIAL}"
        try:
            with open(partial, "xb", opener=private_opener) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(self._folder)

    async def delete(self, ident: str) -> None:
        """Remove a file's contents, if they are there."""
        await asyncio.to_thread(self.path(ident).unlink, missing_ok=True)

    def sweep(self) -> None:
        """Remove what processes that were killed left half written."""
        for path in self._folder.glob(f"*{_PARTIAL}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _FORGOTTEN:
                    path.unlink()


def _sync(folder: Path) -> None:
    """Have the rename on the disk too."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
