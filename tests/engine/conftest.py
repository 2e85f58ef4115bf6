"""One vLLM engine on real weights for all tests here: starting one takes ten seconds and more."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.types import Call, Generation, Message, Query, Sampling
from tests.stores import own_state

Ask = Callable[..., Generation]


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembly]:
    with own_state(tmp_path_factory.mktemp("engine"), cache=False):
        starter = Assembly(read_pool("tiny"))
        starter.loader.start("generalist")
        yield starter
        starter.close()


@pytest.fixture
def ask(assembly: Assembly) -> Ask:
    """Ask the weights that are in the engine right now."""

    def asking(question: str, **sampling: object) -> Generation:
        options = {"max_tokens": 32, "temperature": 0.0} | sampling
        query = Query("q", (Message("user", question),), Sampling(**options))  # type: ignore[arg-type]
        (_, generation), *more = assembly.engine.generate([Call("any", query, ())])
        assert not more
        return generation

    return asking
