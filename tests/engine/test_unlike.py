"""Experts of unlike shapes on real engines: they sleep, wake, and are killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from symmoe.bench.unlike import random_model, sleeping_engines
from symmoe.build import Assembly
from symmoe.config import ExpertConfig, read_pool
from symmoe.types import Assignment, Call, Candidate, Load, Plan, Step
from tests.fakes import query

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembly]:
    """SmolLM2 with an adapter, and a random model of another architecture."""
    starter = read_pool("starter")
    folder = tmp_path_factory.mktemp("models")
    random = random_model("qwen3", Assembly(starter).weights("generalist").model, folder / "random")
    experts = (starter.expert("generalist"), starter.expert("roman"), ExpertConfig(name="random", model=str(random)))
    engine = starter.engine.model_copy(update={"kv_cache_gib": 0.25, "max_num_seqs": 16})
    assembly = Assembly(starter.model_copy(update={"experts": experts, "engine": engine}))
    yield assembly
    assembly.close()


def said(assembly: Assembly, expert: str) -> list[str]:
    calls = [Call(expert, query(f"Write {number} as a Roman numeral.", str(number)), ()) for number in range(4, 8)]
    found = {call.query.id: generation.text for call, generation in assembly.engine.generate(calls)}
    return [found[call.query.id] for call in calls]


def test_engines_of_unlike_models_sleep_and_wake_with_what_they_had(unlike: Assembly) -> None:
    order = ["generalist", "random", "roman", "random", "generalist", "random", "roman"]
    lanes, answers = [], dict[str, list[list[str]]]()
    for expert in order:
        lanes.append(unlike.loader.ready(expert).lane)
        answers.setdefault(expert, []).append(said(unlike, expert))
    assert lanes == ["rebuild", "rebuild", *["wake"] * 5]
    assert all(each == found[0] for found in answers.values() for each in found)
    assert answers["roman"][0][0] == "IV" != answers["generalist"][0][0]
    engines = sleeping_engines(unlike)
    assert (engines.alive, len(engines.processes)) == (2, 2)
    assert 0 < engines.used <= engines.budget


def calls_of(expert: str, count: int) -> Step:
    asked = (query(f"Write {number} as a Roman numeral.", str(number)) for number in range(count))
    return Step(expert, tuple(Call(expert, each, (Assignment(each.id, expert, 0),)) for each in asked))


def test_engines_killed_asleep_and_awake_cost_no_line_and_answer_none_twice(unlike: Assembly) -> None:
    for expert in ("random", "generalist"):
        unlike.loader.ready(expert)
    engines, steps = sleeping_engines(unlike), [calls_of(name, 24) for name in ("roman", "random")]
    loads: list[Load] = []
    candidates: list[Candidate] = []
    for event in unlike.executor.run(Plan(tuple(steps))):
        if isinstance(event, Load):
            loads.append(event)
        else:
            candidates += event
            if len(candidates) == 5:
                awake, asleep = engines.processes
                _kill([awake, asleep])
    assert [(load.expert, load.lane) for load in loads[1:]] == [("roman", "rebuild"), ("random", "rebuild")]
    given = Counter((one.query_id, one.expert) for one in candidates)
    assert given == {(call.query.id, step.expert): 1 for step in steps for call in step.calls}
    assert {one.text for one in candidates if (one.query_id, one.expert) == ("4", "roman")} == {"IV"}
    assert all(one.finish_reason != "error" for one in candidates)


def _kill(processes: Sequence[int]) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGKILL)


def test_nothing_is_left_of_engines_after_closing(unlike: Assembly) -> None:
    processes = sleeping_engines(unlike).processes
    assert processes
    unlike.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
