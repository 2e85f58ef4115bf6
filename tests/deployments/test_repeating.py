"""Work that goes on beside requests, such as writing what keys used."""

from __future__ import annotations

import asyncio

import pytest
from symmoe.deployments.repeating import repeating

from symmoe.errors import StoreError


@pytest.mark.parametrize("failure", [StoreError("away"), RuntimeError("the transport of 'a secret prompt' is closed")])
def test_what_fails_once_is_done_again_and_the_log_tells_no_prompt(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        again, failures = asyncio.Event(), [failure]

        async def work() -> None:
            if failures:
                raise failures.pop()
            again.set()

        async with repeating(work, 0.0):
            await asyncio.wait_for(again.wait(), 60)

    asyncio.run(run())
    assert ("RuntimeError" in caplog.text) == isinstance(failure, RuntimeError)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("at_once", [True, False])
def test_work_is_done_at_the_beginning_or_at_the_end(at_once: bool) -> None:
    async def play() -> tuple[int, int]:
        done: list[None] = []

        async def work() -> None:
            done.append(None)

        async with repeating(work, 3600, at_once):
            await asyncio.sleep(0)
            within = len(done)
        return within, len(done)

    assert asyncio.run(play()) == ((1, 1) if at_once else (0, 1))
