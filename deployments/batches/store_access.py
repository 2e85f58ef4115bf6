"""What everything kept in the store shares: keys, pages, and patience while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from symmoe.errors import StoreError
from symmoe.limits import NAMES_AT_ONCE

from ..storage import Storage
from ..storage import durably as durably

if TYPE_CHECKING:
    from redis.asyncio import Redis

Result = TypeVar("Result")
_SOONEST, _LATEST = 0.1, 2.0
_AGAIN = 3.0


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: what comes `after` a name, at most `limit` of it, by age."""

    limit: int
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


async def names(client: Redis, key: str, page: Page) -> tuple[list[str], bool]:
    """A page of names out of a sorted set whose scores are all equal, and whether there are more."""
    waiting: Any
    if page.order == "asc":
        waiting = client.zrangebylex(key, f"({page.after}" if page.after else "-", "+", 0, page.limit + 1)
    else:
        waiting = client.zrevrangebylex(key, f"({page.after}" if page.after else "+", "-", 0, page.limit + 1)
    members = await waiting
    return [name.decode() for name in members[: page.limit]], len(members) > page.limit


async def pages(client: Redis, key: str) -> AsyncIterator[list[str]]:
    """All names out of such a set, page by page: of names that come or go meanwhile, some are left out."""
    after, more = None, True
    while more:
        members, more = await names(client, key, Page(NAMES_AT_ONCE, after, "asc"))
        if members:
            yield members
            after = members[-1]


async def patiently(storage: Storage, work: Callable[[Redis], Awaitable[Result]]) -> Result:
    """What `work` gives, asked for again and again until the store is there."""
    pause = _SOONEST
    while True:
        try:
            return await storage.do(work)
        except (StoreError, OSError):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATEST)


async def script(client: Redis, text: str, keys: Sequence[str], *args: str | int) -> Any:
    """What a script gives; it runs on the server as one step."""
    waiting: Any = client.eval(text, len(keys), *keys, *args)
    return await waiting


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until they are over: the store's client now and then swallows a cancellation."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)
