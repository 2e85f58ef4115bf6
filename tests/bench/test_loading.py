from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.bench.loading import Workload, dealt, require_weights, steps_of, with_copies
from symmoe.config import read_pool
from symmoe.errors import PoolError
from symmoe.loading.merge import ADAPTER_CONFIG, read_updates
from tests.fakes import question

STARTER = read_pool("tiny")


def test_a_pool_is_filled_up_with_weaker_copies_of_its_adapters(tmp_path: Path) -> None:
    many = with_copies(STARTER, 16, tmp_path)
    assert many.names[: len(STARTER.names)] == STARTER.names
    assert len(set(many.names)) == 16
    copy = many.experts[-1]
    source = STARTER.expert(copy.name.rsplit("-", 1)[0])
    weaker, own = (read_updates(many.path(expert.adapter or "")) for expert in (copy, source))
    assert weaker.keys() == own.keys()
    name = next(iter(own))
    assert weaker[name].scale == pytest.approx(0.9 * own[name].scale)
    assert json.loads((many.path(copy.adapter or "") / ADAPTER_CONFIG).read_text())["r"] == 8


def test_a_pool_larger_than_asked_for_is_cut(tmp_path: Path) -> None:
    assert with_copies(STARTER, 3, tmp_path).names == STARTER.names[:3]


def test_each_question_is_dealt_to_as_many_distinct_experts_its_familys_first() -> None:
    questions = [question("?", "!", family="json", ident=str(n)) for n in range(50)]
    recruitments = dealt(questions, ["json", "radio", "roman", "dates"], 3, seed=0)
    for recruitment in recruitments:
        experts = [assignment.expert for assignment in recruitment.assignments]
        assert experts[0] == "json"
        assert len(set(experts)) == 3
    assert {a.expert for r in recruitments for a in r.assignments} == {"json", "radio", "roman", "dates"}


def test_the_benchmarks_plan_asks_every_expert_once_for_all_its_calls(tmp_path: Path) -> None:
    many = with_copies(STARTER, 16, tmp_path)
    steps = steps_of(many, Workload(16, per_family=3, k=3, seed=1)).steps
    assert sorted(step.expert for step in steps) == sorted(many.names)
    assert sum(len(call.serves) for step in steps for call in step.calls) == 10 * 3 * 3


def test_a_pool_without_weights_is_refused(tmp_path: Path) -> None:
    engine = STARTER.engine.model_copy(update={"kind": "echo"})
    with pytest.raises(PoolError, match="no adapters on vLLM"):
        require_weights(STARTER.model_copy(update={"engine": engine}))
