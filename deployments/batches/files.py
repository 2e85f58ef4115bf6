"""Files: their contents in one folder, and what is known of them besides, in the store by owner.

Ids of files and batches are ours alone, unguessable, and in the order in which they were made. Every ingress machine
must see the same folder: there it is a shared volume.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from symmoe.limits import NAMES_AT_ONCE
from symmoe.private import private_folder, private_opener, synced

from ..storage import Storage
from .batches import made_of
from .store_access import Page, durably, names, pages

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline


FILE, BATCH = "file-", "batch_"
_FORM = re.compile(r"(?:file-|batch_)[0-9a-f]{32}")


def new_id(prefix: str) -> str:
    """A name nobody else has: the time in microseconds, then 72 random bits. Names sort by their age."""
    return f"{prefix}{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether a text may be such a name, and so be part of a path or a key."""
    return text.startswith(prefix) and _FORM.fullmatch(text) is not None


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
        context = self._beside(self.path(ident))
        file = await asyncio.to_thread(context.__enter__)
        try:
            yield file
        except BaseException as error:
            await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__)
            raise
        await asyncio.to_thread(context.__exit__, None, None, None)

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
        synced(self._folder)

    async def delete(self, ident: str) -> None:
        """Remove a file's contents, if they are there."""
        await asyncio.to_thread(self.path(ident).unlink, missing_ok=True)

    def sweep(self) -> None:
        """Remove what processes that were killed left half written."""
        for path in self._folder.glob(f"*{_PARTIAL}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _FORGOTTEN:
                    path.unlink()


INPUT, OUTPUT = "batch", "batch_output"
_ALL, _EXPIRING = "symmoe:files", "symmoe:files:expiring"
_AT_ONCE = 100
_LATER = 600


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file: its owner is the id of a key, `name` what the client calls it.

    `created` and `expires` are in seconds since the epoch; None for never.
    """

    id: str
    owner: str
    name: str
    size: int
    purpose: str
    created: int
    expires: int | None = None

    @property
    def expired(self) -> bool:
        """Whether it has expired."""
        return self.expires is not None and self.expires <= time.time()

    @property
    def document(self) -> dict[str, Any]:
        """The file in OpenAI's shape."""
        shape = {"id": self.id, "object": "file", "bytes": self.size, "created_at": self.created}
        more = {"filename": self.name, "purpose": self.purpose, "status": "processed", "expires_at": self.expires}
        return {**shape, **more}


class Files:
    """The files of a service. All of it may raise `StoreError`."""

    def __init__(self, storage: Storage, contents: Contents) -> None:
        self._storage, self.contents = storage, contents

    async def put(self, record: FileRecord) -> None:
        """Make a file known whose contents are there."""
        await self._storage.do(lambda client: write_file(client, record))

    async def get(self, ident: str, owner: str) -> FileRecord | None:
        """A file of this owner's that has not expired; None for any other."""
        record = await self.find(ident)
        return record if record is not None and record.owner == owner and not record.expired else None

    async def find(self, ident: str) -> FileRecord | None:
        """A file of any owner; None if it is not known."""
        return await self._storage.do(lambda client: find_file(client, ident))

    async def page(self, owner: str, page: Page, purpose: str = "") -> tuple[list[FileRecord], bool]:
        """A page of an owner's files, of one purpose where it is given, and whether there are more."""

        async def work(client: Redis) -> tuple[list[FileRecord], bool]:
            idents, more = await names(client, _of(owner, purpose), page)
            return await _read(client, idents), more

        return await self._storage.do(work)

    async def all_of(self, owner: str) -> list[FileRecord]:
        """Every file of an owner, the oldest first."""

        async def work(client: Redis) -> list[FileRecord]:
            return [record async for idents in pages(client, _of(owner)) for record in await _read(client, idents)]

        return await self._storage.do(work)

    async def delete(self, *records: FileRecord) -> None:
        """Forget files and their contents."""

        async def work(client: Redis) -> None:
            def write(pipe: Pipeline) -> None:
                for record in records:
                    for listed in (*_lists(record), _EXPIRING):
                        pipe.zrem(listed, record.id)
                    pipe.hdel(_ALL, record.id)

            await durably(client, write)

        await self._storage.do(work)
        for record in records:
            await self.contents.delete(record.id)

    async def expire(self) -> int:
        """Delete files that have expired, a hundred at most; how many. One that an open batch is made of is kept."""
        now = int(time.time())

        async def work(client: Redis) -> list[FileRecord]:
            waiting: Any = client.zrangebyscore(_EXPIRING, "-inf", now, 0, _AT_ONCE)
            due = [name.decode() for name in await waiting]
            needed = await _in_use(client, due)
            if needed:
                await client.zadd(_EXPIRING, dict.fromkeys(needed, now + _LATER))
            records = [record for record in await _read(client, due) if record.id not in needed]
            unknown = set(due) - needed - {record.id for record in records}
            if unknown:
                await client.zrem(_EXPIRING, *unknown)
            return records

        expired = await self._storage.do(work)
        if expired:
            await self.delete(*expired)
        return len(expired)


async def _read(client: Redis, idents: Sequence[str]) -> list[FileRecord]:
    """The records of those files that there are."""
    records: list[FileRecord] = []
    for start in range(0, len(idents), NAMES_AT_ONCE):
        waiting: Any = client.hmget(_ALL, list(idents[start : start + NAMES_AT_ONCE]))
        records += [FileRecord(**json.loads(row)) for row in await waiting if row is not None]
    return records


async def _in_use(client: Redis, idents: Sequence[str]) -> set[str]:
    """Those files of which batches are made that are not over."""
    pipe = client.pipeline(transaction=False)
    for ident in idents:
        pipe.exists(made_of(ident))
    return {ident for ident, used in zip(idents, await pipe.execute(), strict=True) if used}


async def find_file(client: Redis, ident: str) -> FileRecord | None:
    """A file's record."""
    waiting: Any = client.hget(_ALL, ident)
    raw = await waiting
    return None if raw is None else FileRecord(**json.loads(raw))


async def write_file(client: Redis, record: FileRecord) -> None:
    """Write a file's record; twice is as good as once."""

    def write(pipe: Pipeline) -> None:
        pipe.hset(_ALL, record.id, json.dumps(asdict(record)))
        for listed in _lists(record):
            pipe.zadd(listed, {record.id: 0})
        if record.expires is not None:
            pipe.zadd(_EXPIRING, {record.id: record.expires})

    await durably(client, write)


def _lists(record: FileRecord) -> tuple[str, str]:
    return _of(record.owner), _of(record.owner, record.purpose)


def _of(owner: str, purpose: str = "") -> str:
    return f"symmoe:files:{purpose or 'all'}:of:{owner}"
