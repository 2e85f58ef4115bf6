"""Odd schemas at an expert replica that runs vLLM with xgrammar: each is answered or refused, and the engine lives."""

from __future__ import annotations

import asyncio
import json
import os
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

pytestmark = [pytest.mark.engine, pytest.mark.slow]
BOUND = float(os.environ.get("SYMMOE_TEST_SECONDS", "5"))
"""Within which each is to be answered or refused, on a machine that does nothing else."""


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExpertReplica]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMMOE_STATE", str(tmp_path_factory.mktemp("state")))
        pool = read_pool("starter")
        made = ExpertReplica(pool.model_dump_json(), str(pool.root), Settings(stall=60.0), Assembly)
        assert made._loop.warm.wait(300)
        yield made
        made.stop()


@pytest.fixture(scope="module", autouse=True)
def started(replica: ExpertReplica) -> None:
    """The compiler's process takes seconds to start."""
    assert isinstance(ask(replica, {"type": "object"}), Finished)


COUNT = iter(range(1 << 20))


def ask(replica: ExpertReplica, schema: Schema | None, tokens: int = 12, key: str = "me") -> Finished | TurnedAway:
    text = None if schema is None else json.dumps(schema, sort_keys=True)
    query = Query("q", (Message("user", "Give an example."),), Sampling(tokens, schema=text))
    asked = Asked(str(next(COUNT)), "generalist", query, key, 60.0)
    *_, end = asyncio.run(replica.complete(asked))
    assert isinstance(end, Finished | TurnedAway)
    return end


@pytest.mark.parametrize("name", ODD)
def test_it_is_answered_or_refused_in_time_and_the_engine_lives(name: str, replica: ExpertReplica) -> None:
    engine = replica._loop._assembly
    began = time.monotonic()
    end = ask(replica, ODD[name])
    taken = time.monotonic() - began
    if isinstance(end, TurnedAway):
        assert end.status == 400, end
        assert end.message.startswith("response_format: ") or end.code == "invalid_request", end
    else:
        assert end.generation.text or end.generation.completion_tokens
    assert taken < BOUND, end
    assert isinstance(ask(replica, None), Finished)
    assert replica._loop.healthy
    assert replica._loop._assembly is engine


def test_others_are_answered_while_hostile_schemas_are_tried(replica: ExpertReplica) -> None:
    async def all_at_once() -> list[float]:
        hostile = [
            asyncio.create_task(replica.complete(asked(f"[\\u0001-\\ufff0]{{1,{20_000 + n}}}", "hostile")))
            for n in range(4)
        ]
        took = []
        for _ in range(8):
            began = time.monotonic()
            *_, end = await replica.complete(asked(None, "friendly"))
            assert isinstance(end, Finished)
            took.append(time.monotonic() - began)
        for *_, end in await asyncio.gather(*hostile):
            assert isinstance(end, TurnedAway)
        return took

    assert max(asyncio.run(all_at_once())) < BOUND


def asked(text: str | None, key: str) -> Asked:
    schema = None if text is None else json.dumps(pattern(text))
    query = Query("q", (Message("user", "Give an example."),), Sampling(4, schema=schema))
    return Asked(str(next(COUNT)), "generalist", query, key, 60.0)


def test_a_schema_that_the_engine_cannot_compile_after_all_is_an_error_and_no_empty_answer(
    replica: ExpertReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the engine's xgrammar is another one than that which tried the schema."""

    async def passes(asked: Asked) -> Asked:
        return replace(asked)

    monkeypatch.setattr(replica._prompts, "ready", passes)
    end = ask(replica, BROKEN_COMPILER)
    assert isinstance(end, TurnedAway)
    assert end.status == 400
    assert isinstance(ask(replica, None), Finished)


def test_the_killer_is_told_what_is_wrong_with_it(replica: ExpertReplica) -> None:
    end = ask(replica, KILLER)
    assert isinstance(end, TurnedAway)
    assert (end.status, end.code) == (400, "invalid_schema")
