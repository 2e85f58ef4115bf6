"""Where machines of a cluster find each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from symmoe.deployments.staging import Meetings

LONG, SHORT = 3600.0, 0.01


def run(*comings: Awaitable[object]) -> list[object]:
    async def all_of() -> list[object]:
        return list(await asyncio.wait_for(asyncio.gather(*comings), 30))

    return asyncio.run(all_of())


def test_machines_that_want_the_same_are_seated_as_soon_as_all_have_come() -> None:
    meetings = Meetings(["a", "b", "c"], LONG)
    seats = run(*(meetings.meet("model", each) for each in "bca"))
    assert seats == [(0, 3, 1), (1, 3, 1), (2, 3, 1)]


def test_who_comes_after_all_others_had_it_waits_for_nobody() -> None:
    async def later() -> list[object]:
        meetings = Meetings(["a", "b", "c"], SHORT)
        first = await asyncio.gather(meetings.meet("model", "a"), meetings.meet("model", "b"))
        meetings.patience = LONG
        return [*first, await asyncio.wait_for(meetings.meet("model", "c"), 30)]

    assert run(later()) == [[(0, 2, 1), (1, 2, 1), (0, 1, 2)]]


def test_who_wants_something_else_sits_elsewhere() -> None:
    meetings = Meetings(["a", "b"], SHORT)
    assert run(meetings.meet("one", "a"), meetings.meet("other", "b")) == [(0, 1, 1), (0, 1, 2)]


def test_where_a_plan_says_who_begins_together_these_are_waited_for_and_nobody_else() -> None:
    async def two_of_three() -> list[object]:
        meetings = Meetings(["a", "b", "c"], LONG)
        first = asyncio.ensure_future(meetings.meet("model", "a", expected=3))
        await meetings.come("model", 3, 0.0)  # another worker of the same machine
        await asyncio.sleep(0)
        assert not first.done()
        return [*await asyncio.gather(first, meetings.meet("model", "b", expected=3))]

    assert run(two_of_three()) == [[(0, 2, 1), (1, 2, 1)]]


def test_those_who_begin_together_wait_as_long_as_that_saves_and_no_longer() -> None:
    meetings = Meetings(["a", "b"], SHORT)
    assert run(meetings.meet("model", "a", expected=2, patience=2 * SHORT)) == [(0, 1, 1)]


def test_the_first_ranks_address_reaches_those_who_ask_before_and_after() -> None:
    async def told() -> list[object]:
        meetings = Meetings(["a", "b"], LONG)
        await asyncio.gather(meetings.meet("model", "a"), meetings.meet("model", "b"))
        before = asyncio.ensure_future(meetings.address(1))
        await meetings.open(1, "127.0.0.1:9")
        return [await before, await meetings.address(1)]

    assert run(told()) == [["127.0.0.1:9"] * 2]


def test_a_first_rank_that_never_opens_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symmoe.deployments.staging._ADDRESS_SECONDS", SHORT)

    async def silent() -> None:
        meetings = Meetings(["a"], LONG)
        await meetings.meet("model", "a")
        with pytest.raises(TimeoutError):
            await meetings.address(1)

    run(silent())
