"""Looking after the keys of open streams."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from symmoe.deployments.access.callers import Caller
from symmoe.deployments.access.watch import KeyWatch

from symmoe.errors import StoreError


class Keys:
    """Keys of which some are revoked; counts what it is asked, and can be lost."""

    def __init__(self, required: bool = True) -> None:
        self.required, self.revoked, self.lost = required, set[str](), False
        self.asked: list[str] = []
        self.looked = asyncio.Event()

    async def caller(self, key: str | None) -> Caller | None:
        self.asked.append(str(key))
        self.looked.set()
        if self.lost:
            raise StoreError("lost")
        return None if key in self.revoked else Caller(str(key))

    async def named(self, ident: str) -> Caller | None:
        raise NotImplementedError

    async def look(self, times: int = 2) -> None:
        """Wait until it was asked again, so often that the earlier ones are dealt with."""
        for _ in range(times):
            self.looked.clear()
            await asyncio.wait_for(self.looked.wait(), 10)


def test_streams_of_a_revoked_key_are_ended_once_and_nobody_elses() -> None:
    async def play() -> list[str]:
        keys, ended = Keys(), list[str]()
        watch = KeyWatch(keys, every=0.001)
        with ExitStack() as streams:
            for name in ("a", "a", "b"):
                streams.enter_context(watch.watched(name, lambda name=name: ended.append(name)))  # type: ignore[misc]
            await keys.look()
            assert ended == []
            keys.revoked.add("a")
            await keys.look(3)
            assert "a" not in keys.asked[-2:]
        return ended

    assert asyncio.run(play()) == ["a", "a"]


def test_a_key_is_looked_up_once_however_many_streams_it_has_and_not_after_the_last() -> None:
    async def play() -> None:
        keys = Keys()
        watch = KeyWatch(keys, every=0.02)
        with ExitStack() as streams:
            for _ in range(100):
                streams.enter_context(watch.watched("a", lambda: None))
            await keys.look(1)
            assert keys.asked == ["a"]
        asked = len(keys.asked)
        await asyncio.sleep(0.06)
        assert len(keys.asked) == asked
        assert len(asyncio.all_tasks()) == 1
        with watch.watched("b", lambda: None):
            await keys.look(1)
        assert keys.asked[-1] == "b"

    asyncio.run(play())


def test_a_store_that_is_lost_ends_no_stream() -> None:
    async def play() -> list[str]:
        keys, ended = Keys(), list[str]()
        keys.lost = True
        with KeyWatch(keys, every=0.001).watched("a", lambda: ended.append("lost")):
            await keys.look()
            assert ended == []
            keys.lost, keys.revoked = False, {"a"}
            await asyncio.wait_for(_until(ended), 10)
        return ended

    assert asyncio.run(play()) == ["lost"]


def test_where_no_keys_are_asked_for_nothing_is_looked_up() -> None:
    async def play() -> None:
        keys = Keys(required=False)
        with KeyWatch(keys, every=0.0).watched("a", lambda: None):
            await asyncio.sleep(0.01)
        with KeyWatch(Keys(), every=0.0).watched(None, lambda: None):
            await asyncio.sleep(0.01)
        assert keys.asked == []

    asyncio.run(play())


async def _until(ended: list[str]) -> None:
    while not ended:
        await asyncio.sleep(0.001)
