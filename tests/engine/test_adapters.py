"""Adapters that the engine applies itself, instead of merging them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.types import Call, Message, Query, Sampling

pytestmark = [pytest.mark.engine, pytest.mark.slow]

RECORD = "Turn this into a JSON record: Emma works as a farmer and lives in Oslo."
RADIO = "Spell the call sign Q T B in the radio alphabet."


@pytest.fixture
def applying() -> Iterator[Assembly]:
    pool = read_pool("tiny")
    engine = pool.engine.model_copy(update={"adapters": "apply"})
    assembly = Assembly(pool.model_copy(update={"engine": engine}))
    yield assembly
    assembly.close()


def test_an_engine_that_applies_adapters_moves_nothing_and_each_expert_answers_as_it_was_trained(
    applying: Assembly,
) -> None:
    def said(question: str) -> str:
        query = Query("q", (Message("user", question),), Sampling(24))
        ((_, generation),) = applying.engine.generate([Call("any", query, ())])
        return generation.text

    first = applying.loader.ready("json")
    assert first.lane == "rebuild"
    assert said(RECORD) == '{"name": "Emma", "job": "farmer", "city": "Oslo"}'
    second = applying.loader.ready("radio")
    assert (second.lane, second.bytes) == ("adapter", 0)
    assert said(RADIO) == "Quebec Tango Bravo"
    assert applying.loader.ready("generalist").lane == "adapter"
    assert said(RADIO) != "Quebec Tango Bravo"
