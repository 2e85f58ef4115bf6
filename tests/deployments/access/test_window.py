"""The arithmetic of windows, done by a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import accumulate, count
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from symmoe.deployments.access.limits import Counts, count_request, count_tokens

from symmoe.store import running_server
from tests.stores import own_state

START = 1_700_000_000_000
NAMES = count()
gaps = st.lists(st.integers(0, 20_000), min_size=1, max_size=40)
fast = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_state(tmp_path_factory.mktemp("windows")):
        yield running_server()


class Window:
    """The windows of a caller of its own."""

    def __init__(self, socket: Path, requests: int = 0, tokens: int = 0) -> None:
        self._client = redis.asyncio.Redis(unix_socket_path=str(socket))
        self._name, self._requests, self._tokens = f"caller{next(NAMES)}", requests, tokens

    async def ask(self, now: int) -> tuple[Counts, Counts]:
        return await count_request(self._client, self._name, self._requests, self._tokens, now)

    async def charge(self, tokens: int, now: int) -> None:
        await count_tokens(self._client, self._name, tokens, now)

    async def close(self) -> None:
        await self._client.aclose()


@fast
@given(limit=st.integers(1, 8), gaps=gaps)
def test_no_59_seconds_see_more_requests_than_the_limit(server: Path, limit: int, gaps: list[int]) -> None:
    async def admitted() -> list[int]:
        window = Window(server, limit)
        times = [START + passed for passed in accumulate(gaps)]
        let_in = [time for time in times if (await window.ask(time))[0][1] == 0]
        await window.close()
        return let_in

    times = asyncio.run(admitted())
    assert times[: min(limit, len(gaps))] == [START + passed for passed in accumulate(gaps)][: min(limit, len(gaps))]
    assert all(later - earlier > 59_000 for earlier, later in zip(times, times[limit:], strict=False))


@fast
@given(limit=st.integers(1, 5), gaps=gaps)
def test_who_waits_as_long_as_told_is_let_in_and_a_millisecond_less_is_too_little(
    server: Path, limit: int, gaps: list[int]
) -> None:
    async def asked() -> None:
        window = Window(server, limit)
        for passed in accumulate(gaps):
            (used, wait, reset), _ = await window.ask(START + passed)
            assert 0 < used <= limit
            assert wait <= reset <= 60_000
            if wait:
                assert (await window.ask(START + passed + wait - 1))[0][1] == 1
                assert (await window.ask(START + passed + wait))[0][1] == 0
                break
        await window.close()

    asyncio.run(asked())


@fast
@given(limit=st.sampled_from([1, 2, 7, 20, 60, 90]), offset=st.integers(0, 999))
def test_who_asks_evenly_at_the_limit_is_never_refused(server: Path, limit: int, offset: int) -> None:
    async def asked() -> None:
        window = Window(server, limit)
        for number in range(2 * limit):
            (_, wait, _), _ = await window.ask(START + offset + number * 60_000 // limit)
            assert wait == 0
        await window.close()

    asyncio.run(asked())


@fast
@given(
    limit=st.integers(1, 500),
    charges=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 200)), min_size=1, max_size=20),
)
def test_tokens_let_requests_in_as_long_as_less_than_the_limit_was_used(
    server: Path, limit: int, charges: list[tuple[int, int]]
) -> None:
    async def asked() -> None:
        window = Window(server, tokens=limit)
        now, spent = START, []
        for gap, tokens in charges:
            now += gap
            spent.append((now // 1000, tokens))
            await window.charge(tokens, now)
            _, (used, wait, reset) = await window.ask(now)
            assert used == sum(each for second, each in spent if second > now // 1000 - 60)
            assert (wait > 0) == (used >= limit)
            assert wait <= reset <= 60_000
            if wait:
                _, (left, none, _) = await window.ask(now + wait)
                assert left < limit
                assert none == 0
                break  # what has left the window is forgotten: time goes on from here
        await window.close()

    asyncio.run(asked())


def test_a_request_over_one_limit_counts_against_none(server: Path) -> None:
    async def asked() -> tuple[int, int]:
        window = Window(server, requests=5, tokens=10)
        await window.ask(START)
        await window.charge(10, START)
        counts = [(await window.ask(START + number))[0][0] for number in range(3)]
        await window.close()
        return counts[0], counts[-1]

    assert asyncio.run(asked()) == (1, 1)


def test_a_clock_that_is_set_back_locks_nobody_out(server: Path) -> None:
    async def asked() -> int:
        window = Window(server, 1)
        await window.ask(START)
        (_, wait, _), _ = await window.ask(START - 3_600_000)
        await window.close()
        return wait

    assert asyncio.run(asked()) == 0


def test_without_a_clock_given_the_servers_own_counts(server: Path) -> None:
    async def asked() -> list[int]:
        client = redis.asyncio.Redis(unix_socket_path=str(server))
        waits = [(await count_request(client, "real", 2, 0))[0][1] for _ in range(3)]
        await client.aclose()
        return waits

    first, second, third = asyncio.run(asked())
    assert (first, second) == (0, 0)
    assert 58_000 < third <= 60_000
