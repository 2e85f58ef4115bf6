from __future__ import annotations

import pytest

from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError
from symmoe.loading.images import NamedImages
from symmoe.loading.lanes import ExpertWeights, LaneLoader
from symmoe.types import Call
from tests.fakes import FailingEngine, query

WEIGHTS = {
    "base": ExpertWeights("/models/one"),
    "adapted": ExpertWeights("/models/one", "/adapters/adapted"),
    "twin": ExpertWeights("/models/one", "/adapters/adapted"),
    "other": ExpertWeights("/models/two"),
    "other-adapted": ExpertWeights("/models/two", "/adapters/second"),
}


def loader(engine: EchoEngine) -> LaneLoader:
    ticks = iter(range(0, 1000, 2))
    return LaneLoader(engine, WEIGHTS.__getitem__, NamedImages(), clock=lambda: float(next(ticks)))


def said(engine: EchoEngine) -> str:
    ((_, generation),) = engine.generate([Call("", query("hello"), ())])
    return generation.text


@pytest.mark.parametrize(
    ("experts", "lanes"),
    [
        (["base"], ["rebuild"]),
        (["base", "base"], ["rebuild", "resident"]),
        (["base", "adapted"], ["rebuild", "merged"]),
        (["base", "adapted", "base"], ["rebuild", "merged", "swap"]),
        (["adapted", "twin"], ["rebuild", "resident"]),
        (["base", "other", "base"], ["rebuild", "rebuild", "rebuild"]),
        (["other-adapted", "other"], ["rebuild", "swap"]),
    ],
)
def test_an_expert_is_made_ready_by_the_cheapest_lane(experts: list[str], lanes: list[str]) -> None:
    ready = loader(EchoEngine())
    loads = [ready.ready(expert) for expert in experts]
    assert [load.expert for load in loads] == experts
    assert [load.lane for load in loads] == lanes
    assert all(load.reason for load in loads)


@pytest.mark.parametrize("before", [None, *WEIGHTS])
@pytest.mark.parametrize("expert", list(WEIGHTS))
def test_whatever_was_there_before_the_expert_made_ready_is_the_one_that_answers(
    expert: str, before: str | None
) -> None:
    engine = EchoEngine()
    ready = loader(engine)
    if before:
        ready.ready(before)
    ready.ready(expert)
    wanted = WEIGHTS[expert]
    assert engine.model == wanted.model
    assert said(engine) == f"{(wanted.adapter or wanted.model).rsplit('/', 1)[1]}: hello"


def test_a_resident_expert_costs_no_start_and_no_swap() -> None:
    engine = EchoEngine()
    ready = loader(engine)
    ready.ready("adapted")
    starts, swaps = engine.started, engine.swaps
    assert ready.ready("adapted").bytes == 0
    assert (engine.started, engine.swaps) == (starts, swaps)


def test_a_load_tells_its_seconds_and_the_bytes_moved() -> None:
    ready = loader(EchoEngine())
    ready.ready("base")
    load = ready.ready("adapted")
    assert (load.seconds, load.bytes) == (2.0, len("adapted"))


@pytest.mark.parametrize("failing", ["adapted", "other"])
def test_after_a_failure_nothing_counts_as_resident(failing: str) -> None:
    engine = FailingEngine()
    ready = loader(engine)
    ready.ready("base")
    engine.broken = True
    with pytest.raises(EngineError):
        ready.ready(failing)
    engine.broken = False
    assert ready.ready("base").lane == "swap"
    assert said(engine) == "one: hello"


def test_an_engine_started_ahead_serves_its_model_without_another_start() -> None:
    engine = EchoEngine()
    ready = loader(engine)
    assert ready.start("adapted") == 2.0
    assert ready.start("base") == 0.0
    assert ready.ready("base").lane == "resident"
    assert ready.ready("adapted").lane == "merged"
    assert engine.started == 1


def test_after_an_engine_failed_to_start_ahead_nothing_counts_as_resident() -> None:
    engine = FailingEngine()
    ready = loader(engine)
    ready.ready("base")
    engine.close()  # as a real engine does before it starts on another model
    engine.broken = True
    with pytest.raises(EngineError):
        ready.start("other")
    engine.broken = False
    ready.ready("base")
    assert said(engine) == "one: hello"
