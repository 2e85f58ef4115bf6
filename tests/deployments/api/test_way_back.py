"""How many generators a piece of text climbs from the engine to the body of the response."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import symmoe.deployments

from tests.deployments.api.conftest import PATIENCE, Running

HOUSE = Path(symmoe.deployments.__file__).parent
BEGUN: ContextVar[list[str]] = ContextVar("begun")
"""In what is done for the request that is looked at, the generators of the house that began."""


async def streamed(served: Running) -> str:
    usual = sys.get_asyncgen_hooks()

    def begins(generator: AsyncGenerator[Any, None]) -> None:
        code = generator.ag_code  # type: ignore[attr-defined]
        if Path(code.co_filename).is_relative_to(HOUSE):
            BEGUN.get([]).append(code.co_qualname)
        if usual.firstiter is not None:
            usual.firstiter(generator)

    sys.set_asyncgen_hooks(firstiter=begins)
    try:
        transport = httpx.ASGITransport(served.app)
        async with httpx.AsyncClient(transport=transport, base_url=served.url, timeout=PATIENCE) as client:
            body = {"model": "adder", "messages": [{"role": "user", "content": "one two three"}], "stream": True}
            return (await client.post("/v1/chat/completions", json=body)).text
    finally:
        sys.set_asyncgen_hooks(*usual)


def test_a_piece_passes_one_generator_in_the_replica_and_one_in_the_ingress(served: Running) -> None:
    begun: list[str] = []
    token = BEGUN.set(begun)
    try:
        text = asyncio.run_coroutine_threadsafe(streamed(served), served.loop).result()
    finally:
        BEGUN.reset(token)
    assert "three" in text
    assert begun == ["ExpertReplica.stream", "streamed"]
