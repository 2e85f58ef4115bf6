from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.key_records import KeyRecord, digest, everyone, new_key, revoke
from symmoe.deployments.access.keys import StoredKeys
from symmoe.deployments.storage import Storage

from symmoe.errors import StoreError
from tests.deployments.api.conftest import PATIENCE

from .conftest import kill_the_store, make_key, stored


class Counting:
    """A store that counts what it is asked, and can be lost; with the loop in which it is asked."""

    def __init__(self) -> None:
        self.asked, self.lost = 0, False
        self.storage, self.runner = Storage(), asyncio.Runner()

    async def do(self, work: Callable[..., Any]) -> Any:
        self.asked += 1
        if self.lost:
            raise StoreError("lost")
        return await self.storage.do(work)

    def callers(self, known: StoredKeys, *asked: str | None) -> list[str | None]:
        """Whose each key is."""

        async def asking() -> list[str | None]:
            found = [await known.caller(key) for key in asked]
            return [None if caller is None else caller.id for caller in found]

        return self.runner.run(asking())


@pytest.fixture
def store(state: Path) -> Iterator[Counting]:
    counting = Counting()
    with counting.runner:
        yield counting
        counting.runner.run(counting.storage.close())


def test_a_key_holds_256_random_bits_and_no_two_are_equal() -> None:
    made = {new_key() for _ in range(1000)}
    assert len(made) == 1000
    assert all(key.startswith("sk-symmoe-") and len(key) == len("sk-symmoe-") + 43 for key in made)


def test_a_known_key_is_its_callers_and_anything_else_is_nobodys(store: Counting) -> None:
    key, record = make_key(requests_per_minute=3)
    wrong = [None, "", "none", new_key(), key[:-1], key + "x", key.upper(), "sk-symmoe-" + "é" * 43]
    known = StoredKeys(store)
    assert store.callers(known, key, *wrong) == [record.id, *[None] * len(wrong)]


def test_expired_and_revoked_keys_are_nobodys(store: Counting) -> None:
    expired, _ = make_key(expires=time.time() - 1)
    revoked, record = make_key()
    later, _ = make_key(expires=time.time() + 60)
    stored(lambda storage: revoke(storage, record.id, time.time()))
    assert [caller is not None for caller in store.callers(StoredKeys(store), expired, revoked, later)] == [
        False,
        False,
        True,
    ]


def test_a_key_that_expires_while_it_is_remembered_ends_in_time(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = make_key(expires=time.time() + 60)
    known = StoredKeys(store, fresh=3600)
    assert store.callers(known, key) != [None]
    ends = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: ends)
    assert store.callers(known, key) == [None]


def test_revoked_again_a_key_keeps_the_time_of_the_first_and_an_unknown_id_is_none(state: Path) -> None:
    _, record = make_key()

    async def twice(storage: Storage) -> list[KeyRecord | None]:
        return [await revoke(storage, ident, now) for ident, now in ((record.id, 1.0), (record.id, 2.0), ("x", 3.0))]

    first, second, none = stored(twice)
    assert first == second
    assert first is not None
    assert first.revoked == 1.0
    assert none is None
    assert stored(everyone) == [first]


def test_a_key_is_looked_up_again_when_it_is_no_longer_fresh_and_guesses_are_never_remembered(store: Counting) -> None:
    key, _ = make_key()
    known = StoredKeys(store, fresh=3600)
    assert store.callers(known, key, key, key) != [None] * 3
    assert store.asked == 1
    guess = new_key()
    store.callers(known, guess, guess)
    assert store.asked == 3
    store.callers(StoredKeys(store, fresh=0), key, key)
    assert store.asked == 5
    store.callers(known, "not a key", None)
    assert store.asked == 5


def test_while_the_store_is_lost_a_key_that_it_confirmed_is_accepted_for_a_while_and_no_other(store: Counting) -> None:
    key, record = make_key()
    other, _ = make_key()
    known, brief = StoredKeys(store, fresh=0), StoredKeys(store, fresh=0, known=0)
    assert store.callers(known, key) == store.callers(brief, key) == [record.id]
    store.lost = True
    assert store.callers(known, key) == [record.id]
    for keys_known, asked in ((known, other), (brief, key)):
        with pytest.raises(StoreError):
            store.callers(keys_known, asked)


def test_a_revoked_key_is_forgotten_so_that_a_lost_store_does_not_bring_it_back(store: Counting) -> None:
    key, record = make_key()
    known = StoredKeys(store, fresh=0)
    assert store.callers(known, key) == [record.id]
    stored(lambda storage: revoke(storage, record.id, time.time()))
    assert store.callers(known, key) == [None]
    store.lost = True
    with pytest.raises(StoreError):
        store.callers(known, key)


def test_a_breaker_asks_a_lost_store_once_and_then_pauses(foreign: Callable[[], object], store: Counting) -> None:
    async def asked() -> int:
        breaker = Breaker(store, PATIENCE, pause=PATIENCE)
        assert await breaker.do(lambda client: client.ping())
        kill_the_store()
        for _ in range(50):
            with pytest.raises(StoreError):
                await breaker.do(lambda client: client.ping())
        return store.asked

    assert store.runner.run(asked()) == 2


def test_a_breaker_waits_no_longer_than_its_patience() -> None:
    class Hanging:
        async def do(self, work: Callable[..., Any]) -> Any:
            await asyncio.Event().wait()

    async def asked() -> None:
        with pytest.raises(StoreError, match=r"within 0\.05 s"):
            await Breaker(Hanging(), patience=0.05).do(lambda client: client.ping())

    asyncio.run(asked())


def test_a_digest_is_that_of_a_key_and_of_nothing_else() -> None:
    assert digest("sk-symmoe-short") is None
    assert len(digest(new_key()) or "") == 64
