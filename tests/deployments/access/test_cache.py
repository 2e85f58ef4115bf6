from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from symmoe.deployments.access.cache import AnswerCache, Found, identity
from symmoe.deployments.access.keys import Caller
from symmoe.deployments.access.limits import Level, Limits, LimitStatus
from symmoe.deployments.order import Order
from symmoe.deployments.storage import Storage

from symmoe.errors import StoreError
from symmoe.policy import Policy
from symmoe.types import Message, Query, Sampling

from .conftest import contents, stored

ANSWER = {"choices": [{"index": 0}], "headers": {}}


def order(text: str = "What is the capital of France?", key: str = "mine", **changes: Any) -> Order:
    query = Query("0", (Message("system", "Be brief."), Message("user", text)), Sampling(16))
    return replace(Order("one", query, key, Policy(3)), **changes)


def cached(work: Callable[[AnswerCache], Awaitable[Any]], pool: str = "pool", entries: int = 100) -> Any:
    async def working() -> Any:
        storage = Storage()
        try:
            return await work(AnswerCache(storage, lambda: pool, 60.0, entries))
        finally:
            await storage.close()

    return asyncio.run(working())


def kept(asked: Order, *others: Order) -> list[str]:
    """How orders are found after the first was answered."""

    async def work(cache: AnswerCache) -> list[str]:
        await cache.keep(asked, ANSWER)
        return [(await cache.find(other)).how for other in others]

    return list(cached(work))


QUERY = order().query
DIFFERENT = {
    "caller": order(key="yours"),
    "expert": order(policy=Policy(expert="adder")),
    "n": order(n=2),
    "explain": order(explain=True),
    "k": order(policy=Policy(2)),
    "budget": order(policy=Policy(3, 100.0)),
    "full": order(policy=Policy(3, full=True)),
    "aggregate": order(policy=Policy(3, aggregate="never")),
    "question": order("What is the capital of Spain?"),
    "space": order("What is the capital of France? "),
    "system": order(query=replace(QUERY, messages=(Message("system", "Be long."), QUERY.messages[1]))),
    "role": order(query=replace(QUERY, messages=(Message("user", "Be brief."), QUERY.messages[1]))),
    "no system": order(query=replace(QUERY, messages=QUERY.messages[1:])),
    "max_tokens": order(query=replace(QUERY, sampling=Sampling(17))),
    "temperature": order(query=replace(QUERY, sampling=Sampling(16, 0.5))),
    "top_p": order(query=replace(QUERY, sampling=Sampling(16, top_p=0.5))),
    "seed": order(query=replace(QUERY, sampling=Sampling(16, seed=1))),
    "stop": order(query=replace(QUERY, sampling=Sampling(16, stop=("x",)))),
}


def test_an_equal_order_is_found_and_one_that_differs_in_anything_is_not(state: Path) -> None:
    same = order(id="two", stream=True, deadline=1.0)
    assert kept(order(), same) == ["hit"]
    found = dict(zip(DIFFERENT, kept(order(), *DIFFERENT.values()), strict=True))
    assert {what: how for what, how in found.items() if how != "miss"} == {}


def test_another_pool_and_an_answer_too_large_are_not_found(state: Path) -> None:
    large = {**ANSWER, "choices": ["x" * (1 << 18)]}

    async def keep(cache: AnswerCache) -> None:
        await cache.keep(order(), ANSWER)
        await cache.keep(order(key="large"), large)

    cached(keep)
    assert cached(lambda cache: cache.find(order()), pool="another") == Found("miss")
    assert cached(lambda cache: cache.find(order(key="large"))) == Found("miss")
    assert cached(lambda cache: cache.find(order())) == Found("hit", ANSWER)


def test_the_question_is_not_in_the_store_and_everything_there_ends(state: Path) -> None:
    import redis

    from symmoe.store import embedded_socket

    kept(order("What is the capital of Liechtenstein?"))
    everything = contents()
    assert "Liechtenstein" not in repr(everything)
    server = redis.Redis(unix_socket_path=str(embedded_socket()))
    assert len(everything) == 2
    assert all(0 < server.pttl(name) <= 60_000 for name in everything)


def test_the_oldest_entries_give_way_and_only_those_of_the_same_caller(state: Path) -> None:
    async def many(cache: AnswerCache) -> list[str]:
        await cache.keep(order(key="other"), ANSWER)
        for number in range(6):
            await cache.keep(order(f"sum {number}"), ANSWER)
            await asyncio.sleep(0.002)  # entries are ordered by the server's milliseconds
        asked = [order(key="other"), *(order(f"sum {number}") for number in range(6))]
        return [(await cache.find(each)).how for each in asked]

    assert cached(many, entries=3) == ["hit", "miss", "miss", "miss", "hit", "hit", "hit"]
    assert sum(b":answer:" in name for name in contents()) == 4


def test_a_lost_store_finds_and_keeps_nothing_and_is_no_error() -> None:
    class Lost:
        async def do(self, work: Callable[..., Any]) -> Any:
            raise StoreError("lost")

    async def working() -> Found:
        cache = AnswerCache(Lost(), lambda: "pool", 60.0, 10)
        await cache.keep(order(), ANSWER)
        return await cache.find(order())

    assert asyncio.run(working()) == Found("unavailable")


def test_the_identity_of_an_order_leaves_out_its_name_its_time_and_whose_it_is() -> None:
    told = json.loads(identity(order()))
    assert set(told) == {"messages", "sampling", "kind", "policy", "n", "explain", "newcomers"}


class Lost:
    async def do(self, work: Callable[..., Any]) -> Any:
        raise StoreError("lost")


def test_where_the_store_is_lost_nobody_is_refused_and_it_is_counted() -> None:
    missed: list[None] = []
    limits = Limits(Lost(), lambda: missed.append(None))

    async def asking() -> LimitStatus:
        await limits.charge(Caller("mine", tokens_per_minute=1), 5)
        return await limits.admit(Caller("mine", 1, 1))

    assert asyncio.run(asking()) == LimitStatus()
    assert len(missed) == 2


def test_a_caller_without_limits_costs_the_store_nothing(state: Path) -> None:
    limits = Limits(Lost(), lambda: None)
    asyncio.run(limits.charge(Caller("mine", 5), 100))
    assert asyncio.run(limits.admit(Caller("mine"))) == LimitStatus()


def test_a_standing_tells_of_each_limit_that_there_is(state: Path) -> None:
    caller = Caller("mine", tokens_per_minute=10)

    async def asking(storage: Any) -> tuple[LimitStatus, LimitStatus]:
        limits = Limits(storage, lambda: None)
        before = await limits.admit(caller)
        await limits.charge(caller, 25)
        return before, await limits.admit(caller)

    before, after = stored(asking)
    assert before.exceeded is None
    assert before.headers["x-ratelimit-remaining-tokens"] == "10"
    assert set(before.headers) == {f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")}
    assert after.exceeded is not None
    assert after.exceeded.what == "tokens"
    assert after.headers["x-ratelimit-remaining-tokens"] == "0"
    assert list(contents()) == [b"symmoe:window:{mine}:tokens"]


def test_the_longest_wait_is_the_one_that_counts() -> None:
    levels = (Level("requests", 1, 1, 2.0, 60.0), Level("tokens", 5, 9, 30.0, 60.0), Level("other", 5, 0, 0.0, 0.0))
    assert LimitStatus(levels).exceeded == levels[1]
    assert LimitStatus(levels[2:]).exceeded is None
