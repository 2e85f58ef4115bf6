from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from symmoe.deployments.access.breaker import Breaker
from symmoe.deployments.access.keys import (
    Caller,
    KeyRecord,
    KeyWatch,
    StoredKeys,
    bearer,
    check_exposure,
    digest,
    everyone,
    is_loopback,
    new_key,
    revoke,
)
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage, command

from symmoe.errors import JobError, StoreError, StoreRefusedError
from tests.deployments.api.conftest import PATIENCE, running

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


def test_what_a_store_refuses_one_is_no_reason_to_keep_others_from_it(store: Counting) -> None:
    async def asked() -> None:
        breaker = Breaker(store, PATIENCE, pause=PATIENCE)
        for refused in (command("EVAL", "return redis.error_reply('no')", 0), command("LPUSH", "text", "x")):
            assert await breaker.do(command("SET", "text", "x"))
            with pytest.raises(StoreRefusedError, match="the store refused"):
                await breaker.do(refused)
            assert await breaker.do(lambda client: client.ping())

    store.runner.run(asked())


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


class OneKey:
    """Knows one key."""

    required = True

    async def caller(self, key: str | None) -> Caller | None:
        return Caller("mine") if key == "sesame" else None


def test_without_the_right_key_nothing_is_told_but_health(tmp_path: Path) -> None:
    with running(tmp_path, Settings(), OneKey()) as served:
        for key in ("wrong", "sesame "):
            with pytest.raises(openai.AuthenticationError) as raised:
                openai.OpenAI(base_url=f"{served.url}/v1", api_key=key + "x", max_retries=0).models.list()
            assert raised.value.code == "invalid_api_key"
        body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}
        assert served.post(json=body).status_code == 401
        assert served.post("/v1/route", json=body).status_code == 401
        assert served.get("/v1/models/adder").status_code == 401
        assert served.get("/health").status_code == 200
        right = openai.OpenAI(base_url=f"{served.url}/v1", api_key="sesame", max_retries=0)
        assert right.models.retrieve("adder").id == "adder"


@pytest.mark.parametrize(
    ("header", "key"),
    [(None, None), ("", None), ("Bearer", None), ("Bearer  ", None), ("Basic abc", None), ("bearer abc", "abc")],
)
def test_a_key_is_what_follows_bearer(header: str | None, key: str | None) -> None:
    assert bearer(header) == key


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104
def test_a_service_that_others_can_reach_needs_keys(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(JobError, match="no keys"):
        check_exposure(host, False)
    check_exposure(host, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(host, False)


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
