from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from symmoe.deployments.access.callers import Caller
from symmoe.deployments.access.limits import Level, Limits, LimitStatus

from symmoe.errors import StoreError

from .conftest import contents, stored


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
    assert before.over is None
    assert before.headers["x-ratelimit-remaining-tokens"] == "10"
    assert set(before.headers) == {f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")}
    assert after.over is not None
    assert after.over.what == "tokens"
    assert after.headers["x-ratelimit-remaining-tokens"] == "0"
    assert list(contents()) == [b"symmoe:window:{mine}:tokens"]


def test_the_longest_wait_is_the_one_that_counts() -> None:
    levels = (Level("requests", 1, 1, 2.0, 60.0), Level("tokens", 5, 9, 30.0, 60.0), Level("other", 5, 0, 0.0, 0.0))
    assert LimitStatus(levels).over == levels[1]
    assert LimitStatus(levels[2:]).over is None
