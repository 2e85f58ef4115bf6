"""How many generators a piece of text climbs from the engine to the body of the response."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import symmoe.deployments

from tests.deployments.api.conftest import Running

HOUSE = Path(symmoe.deployments.__file__).parent


@contextmanager
def begun_in(loop: asyncio.AbstractEventLoop) -> Iterator[list[str]]:
    """The names of the house's asynchronous generators that begin in a loop meanwhile."""
    names: list[str] = []

    async def watch() -> sys._asyncgen_hooks:
        usual = sys.get_asyncgen_hooks()

        def begins(generator: AsyncGenerator[Any, None]) -> None:
            code = generator.ag_code  # type: ignore[attr-defined]
            if Path(code.co_filename).is_relative_to(HOUSE):
                names.append(code.co_qualname)
            if usual.firstiter is not None:
                usual.firstiter(generator)

        sys.set_asyncgen_hooks(firstiter=begins)
        return usual

    async def leave(usual: sys._asyncgen_hooks) -> None:
        sys.set_asyncgen_hooks(*usual)

    usual = asyncio.run_coroutine_threadsafe(watch(), loop).result()
    yield names
    asyncio.run_coroutine_threadsafe(leave(usual), loop).result()


def test_a_piece_passes_one_generator_in_the_replica_and_one_in_the_ingress(served: Running) -> None:
    with begun_in(served.loop) as names:
        body = {"model": "adder", "messages": [{"role": "user", "content": "one two three"}], "stream": True}
        assert "three" in served.post(json=body).text
    assert names == ["ExpertReplica.stream", "streamed"]
