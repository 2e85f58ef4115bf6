"""What is known of files besides their contents: kept in the store, by owner."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..storage import Storage
from .contents import Contents
from .keeping import Page, durably, names

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

INPUT, OUTPUT = "batch", "batch_output"
_ALL = "symmoe:files"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file: its owner is the id of a key, `name` what the client calls it, `created` in seconds since the epoch."""

    id: str
    owner: str
    name: str
    size: int
    purpose: str
    created: int

    @property
    def document(self) -> dict[str, Any]:
        """The file in OpenAI's shape."""
        shape = {"id": self.id, "object": "file", "bytes": self.size, "created_at": self.created}
        more = {"filename": self.name, "purpose": self.purpose, "status": "processed", "expires_at": None}
        return {**shape, **more}


class Files:
    """The files of a service. All of it may raise `StoreError`."""

    def __init__(self, storage: Storage, contents: Contents) -> None:
        self._storage, self.contents = storage, contents

    async def put(self, record: FileRecord) -> None:
        """Make a file known whose contents are there."""
        await self._storage.do(lambda client: write_file(client, record))

    async def get(self, ident: str, owner: str) -> FileRecord | None:
        """A file of this owner's."""
        found = await self.find(ident)
        return found if found is not None and found.owner == owner else None

    async def find(self, ident: str) -> FileRecord | None:
        """A file, whosever it is."""
        return await self._storage.do(lambda client: find_file(client, ident))

    async def page(self, owner: str, page: Page, purpose: str = "") -> tuple[list[FileRecord], bool]:
        """A page of an owner's files, of one purpose where it is given, and whether there are more."""

        async def work(client: Redis) -> tuple[list[FileRecord], bool]:
            found, more = await names(client, _of(owner, purpose), page)
            if not found:
                return [], more
            waiting: Any = client.hmget(_ALL, found)
            rows = await waiting
            return [FileRecord(**json.loads(row)) for row in rows if row is not None], more

        return await self._storage.do(work)

    async def delete(self, record: FileRecord) -> None:
        """Forget a file and its contents."""

        async def work(client: Redis) -> None:
            def write(pipe: Pipeline) -> None:
                for listed in _lists(record):
                    pipe.zrem(listed, record.id)
                pipe.hdel(_ALL, record.id)

            await durably(client, write)

        await self._storage.do(work)
        await self.contents.delete(record.id)


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

    await durably(client, write)


def _lists(record: FileRecord) -> tuple[str, str]:
    return _of(record.owner), _of(record.owner, record.purpose)


def _of(owner: str, purpose: str = "") -> str:
    return f"symmoe:files:{purpose or 'all'}:of:{owner}"
