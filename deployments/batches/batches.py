"""Batches in the store, as the service's paths know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..settings import Settings
from ..storage import Storage
from .batch_records import BatchRecord
from .store_access import Page, durably, names
from .table import ADD_FACT, CREATE, batch_key, batches_of, keys_of, made_of, now, open_of, read_batch, read_batches

if TYPE_CHECKING:
    from redis.asyncio import Redis

_USUAL = Settings()


class Batches:
    """The batches of a service, for its paths. All of it may raise `StoreError`."""

    def __init__(self, storage: Storage, settings: Settings = _USUAL) -> None:
        self._storage, self._most = storage, settings.most_open_batches

    async def create(self, record: BatchRecord) -> bool:
        """A new batch, safe on the server's disk before anybody is told of it; False where its owner has too many."""

        async def work(client: Redis) -> bool:
            keys = keys_of(record.id, record.owner, record.input)
            words = (record.id, record.owner, record.fixed, self._most)
            made, *_ = await durably(client, lambda pipe: pipe.eval(CREATE, len(keys), *keys, *words))
            return bool(made)

        return await self._storage.do(work)

    async def get(self, ident: str, owner: str) -> BatchRecord | None:
        """A batch of this owner's."""
        found = await self._storage.do(lambda client: read_batch(client, ident))
        return found if found is not None and found.owner == owner else None

    async def page(self, owner: str, page: Page) -> tuple[list[BatchRecord], bool]:
        """A page of an owner's batches, and whether there are more."""

        async def work(client: Redis) -> tuple[list[BatchRecord], bool]:
            found, more = await names(client, batches_of(owner), page)
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

    async def open_of(self, owner: str) -> tuple[int, int]:
        """How many batches of an owner are not over, and how many bytes their rows take."""

        async def work(client: Redis) -> tuple[int, int]:
            waiting: Any = client.zrangebylex(open_of(owner), "-", "+", 0, self._most)
            pipe = client.pipeline(transaction=False)
            pipe.zcard(open_of(owner))
            for name in await waiting:
                pipe.hget(batch_key(name.decode()), "row_bytes")
            opened, *rows = await pipe.execute()
            return int(opened), sum(int(size) for size in rows if size is not None)

        return await self._storage.do(work)

    async def using(self, file: str) -> bool:
        """Whether a batch that is not over is made of this file."""
        return bool(await self._storage.do(lambda client: client.exists(made_of(file))))
