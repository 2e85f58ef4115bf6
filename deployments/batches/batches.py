"""Batches in the store, as the service's paths know them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..storage import Storage
from .keeping import Page, durably, names
from .records import BatchRecord
from .table import ADD_FACT, OPEN, batch_key, now, read_batch, read_batches, read_open

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline


class Batches:
    """The batches of a service, for its paths. All of it may raise `StoreError`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def create(self, record: BatchRecord) -> None:
        """A new batch, safe on the server's disk before anybody is told of it."""

        async def work(client: Redis) -> None:
            key, own = batch_key(record.id), _of(record.owner)

            def write(pipe: Pipeline) -> None:
                pipe.hset(key, "fixed", record.fixed)
                for listed in (own, OPEN):
                    pipe.zadd(listed, {record.id: 0})

            await durably(client, write)

        await self._storage.do(work)

    async def get(self, ident: str, owner: str) -> BatchRecord | None:
        """A batch of this owner's."""
        found = await self._storage.do(lambda client: read_batch(client, ident))
        return found if found is not None and found.owner == owner else None

    async def page(self, owner: str, page: Page) -> tuple[list[BatchRecord], bool]:
        """A page of an owner's batches, and whether there are more."""

        async def work(client: Redis) -> tuple[list[BatchRecord], bool]:
            found, more = await names(client, _of(owner), page)
            return await read_batches(client, found), more

        return await self._storage.do(work)

    async def cancel(self, ident: str) -> bool:
        """Have a batch cancelled; False if its end was decided before."""

        async def work(client: Redis) -> None:
            words = ("cancelling_at", now(), "outcome", "ended")
            await durably(client, lambda pipe: pipe.eval(ADD_FACT, 1, batch_key(ident), *words))

        await self._storage.do(work)
        found = await self._storage.do(lambda client: read_batch(client, ident))
        return found is not None and "cancelling_at" in found.facts

    async def open_of(self, owner: str) -> int:
        """How many batches of an owner are not over."""
        opened = await self._storage.do(read_open)
        return sum(record.owner == owner and "ending" not in record.facts for record in opened)

    async def using(self, file: str) -> bool:
        """Whether a batch that is not over is made of this file."""
        opened = await self._storage.do(read_open)
        return any(record.input == file and "ending" not in record.facts for record in opened)


def _of(owner: str) -> str:
    return f"symmoe:batches:of:{owner}"
