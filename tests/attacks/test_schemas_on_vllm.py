"""Odd schemas at an expert replica that runs vLLM with xgrammar: each is answered or refused, and the engine lives."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from symmoe.deployments.events import Asked, Finished, TurnedAway
from symmoe.deployments.expert import ExpertReplica
from symmoe.deployments.settings import Settings

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.types import Message, Query, Sampling
from tests.attacks.schemas import BROKEN_COMPILER, KILLER, ODD, Schema, pattern
from tests.stores import own_state

pytestmark = [pytest.mark.engine, pytest.mark.slow]
BOUND = 5.0
"""Seconds within which each is answered or refused, on a machine that does nothing else."""
REFUSED = ((400, "invalid_schema"), (400, "invalid_request"), (503, "overloaded"))
SLOWER = 4
"""How many times what an answer without a schema takes one with a schema may take besides, where others are busy."""


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExpertReplica]:
    with own_state(tmp_path_factory.mktemp("schemas"), cache=False):
        pool = read_pool("tiny")
        made = ExpertReplica(pool, Settings(stall=60.0), Assembly)
        assert made.loop.warm.wait(300)
        yield made
        made.stop()


@pytest.fixture(scope="module", autouse=True)
def started(replica: ExpertReplica) -> None:
    """The compiler's process takes seconds to start."""
    assert isinstance(ask(replica, {"type": "object"}), Finished)


COUNT = iter(range(1 << 20))


def ask(replica: ExpertReplica, schema: Schema | None) -> Finished | TurnedAway:
    *_, end = asyncio.run(replica.complete(request(schema)))
    assert isinstance(end, Finished | TurnedAway)
    return end


def request(schema: Schema | None, key: str = "me") -> Asked:
    text = None if schema is None else json.dumps(schema, sort_keys=True)
    query = Query("q", (Message("user", "Give an example."),), Sampling(4, schema=text))
    return Asked(str(next(COUNT)), "generalist", query, key, 60.0)


@pytest.mark.parametrize("name", ODD)
def test_it_is_answered_or_refused_in_time_beside_others_and_the_engine_lives(
    name: str, replica: ExpertReplica
) -> None:
    engine = replica.loop.assembly
    (end, taken), (plain, usual) = asyncio.run(side_by_side(replica, ODD[name]))
    if isinstance(end, TurnedAway):  # 503 where the machine had no time to find out
        assert (end.status, end.code) in REFUSED, end
        assert end.message.startswith("response_format: ") or end.code == "invalid_request", end
    else:
        assert end.generation.completion_tokens
    assert isinstance(plain, Finished)
    assert taken < BOUND + SLOWER * usual, end
    assert replica.loop.healthy
    assert replica.loop.assembly is engine


async def side_by_side(replica: ExpertReplica, schema: Schema) -> list[tuple[Finished | TurnedAway, float]]:
    """How a request with a schema and one without ended, and the seconds that each took."""

    async def timed(one: Asked) -> tuple[Finished | TurnedAway, float]:
        began = time.monotonic()
        *_, end = await replica.complete(one)
        assert isinstance(end, Finished | TurnedAway)
        return end, time.monotonic() - began

    return await asyncio.gather(timed(request(schema)), timed(request(None)))


def test_others_are_answered_while_hostile_schemas_are_tried(replica: ExpertReplica) -> None:
    async def all_at_once() -> None:
        schemas = [pattern(f"[\\u0001-\\ufff0]{{1,{20_000 + n}}}") for n in range(4)]
        hostile = [asyncio.create_task(replica.complete(request(schema, "hostile"))) for schema in schemas]
        friendly = [(await replica.complete(request(None, "friendly")))[-1]]
        assert not all(task.done() for task in hostile)
        for *_, end in await asyncio.gather(*hostile):
            assert isinstance(end, TurnedAway)
        assert isinstance(friendly[0], Finished)

    asyncio.run(all_at_once())


def test_a_schema_that_the_engine_cannot_compile_after_all_is_an_error_and_no_empty_answer(
    replica: ExpertReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the engine's xgrammar is another one than that which tried the schema."""

    async def passes(asked: Asked) -> Asked:
        return replace(asked)

    monkeypatch.setattr(replica.prompts, "ready", passes)
    end = ask(replica, BROKEN_COMPILER)
    assert isinstance(end, TurnedAway)
    assert end.status == 400
    assert isinstance(ask(replica, None), Finished)


def test_the_killer_is_told_what_is_wrong_with_it(replica: ExpertReplica) -> None:
    end = ask(replica, KILLER)
    assert isinstance(end, TurnedAway)
    assert (end.status, end.code) == (400, "invalid_schema")
