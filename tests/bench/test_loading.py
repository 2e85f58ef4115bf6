from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from symmoe.bench import replicas
from symmoe.bench.gathering import measure
from symmoe.bench.loading import Workload, dealt, require_weights, steps_of, with_copies
from symmoe.bench.unlike import ARCHITECTURES, random_model, unlike_pool
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.errors import PoolError
from symmoe.loading.merge import ADAPTER_CONFIG, read_updates
from symmoe.loading.packed.layout import Layout
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


TINY = read_pool("tiny")


def test_a_made_model_is_small_and_speaks_with_the_tokenizer_that_it_was_given(tmp_path: Path) -> None:
    base = Assembly(TINY).weights("generalist").model
    made = {each: random_model(each, base, tmp_path / each) for each in ARCHITECTURES}
    config = {each: json.loads((folder / "config.json").read_text()) for each, folder in made.items()}
    assert {each: found["model_type"] for each, found in config.items()} == {each: each for each in ARCHITECTURES}
    assert all((folder / "model.safetensors").stat().st_size < 80e6 for folder in made.values())
    assert all(
        (folder / "tokenizer.json").read_bytes() == (Path(base) / "tokenizer.json").read_bytes()
        for folder in made.values()
    )
    shapes = {Layout.of(str(folder), None).manifest.fingerprint for folder in (Path(base), *made.values())}
    assert len(shapes) == 3


def test_five_experts_have_four_models_and_every_one_is_asked(tmp_path: Path) -> None:
    other = random_model("qwen3", Assembly(TINY).weights("generalist").model, tmp_path / "other")
    pool = unlike_pool(TINY, other, tmp_path / "made")
    assert len(pool.experts) == 5
    assert len({expert.model for expert in pool.experts}) == 4
    steps = steps_of(pool, Workload(5, per_family=2, k=3, seed=0)).steps
    assert sorted(step.expert for step in steps) == sorted(pool.names)
    assert [step.expert for step in steps[:2]] == ["generalist", "arithmetic"]


def test_a_pool_of_one_model_needs_another_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="one model only") as refused:
        unlike_pool(TINY, None, tmp_path)
    assert "--model" in str(refused.value.hint)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return measure(mib=4, ranks=[2], throttle=40, repeats=1, kill=True, chunk_mib=0.25)


def test_what_arrives_is_exact_and_each_rank_reads_its_share(report: dict[str, Any]) -> None:
    row = report["ranks"]["2"]
    assert row["throttled"]["bit_exact"]
    assert row["page_cache"]["bit_exact"]
    assert row["throttled"]["mib_read_per_rank"] == [2.0, 2.0]
    assert row["throttled"]["read_is_a_share"]


def test_the_throttle_bounds_what_is_measured(report: dict[str, Any]) -> None:
    row = report["ranks"]["2"]["throttled"]
    assert row["independent_seconds"] >= 8 / 40
    assert row["grouped_seconds"] >= 4 / 40
    assert row["plan"]["mode"] == "grouped"
    assert row["times"] == pytest.approx(row["runs"][0][0] / row["runs"][0][1], abs=0.1)


def test_it_is_told_how_busy_the_machine_was_otherwise(report: dict[str, Any]) -> None:
    assert 0 <= report["ranks"]["2"]["throttled"]["cores_taken_by_others"] <= report["cores"]


def test_the_plan_of_each_case_gives_both_predictions(report: dict[str, Any]) -> None:
    for case in ("throttled", "page_cache"):
        plan = report["ranks"]["2"][case]["plan"]
        assert plan["grouped_seconds"] > 0
        assert plan["independent_seconds"] > 0
        assert plan["reason"]


def test_the_others_name_the_killed_rank_and_end_within_ten_seconds(report: dict[str, Any]) -> None:
    (other,) = report["kill"]["others"]
    assert report["kill"]["killed"] == 1
    assert other["error"].startswith("rank 1, chunk ")
    assert other["seconds"] < 10


@pytest.mark.slow
def test_a_group_is_nearly_as_many_times_as_fast_as_it_has_ranks() -> None:
    report = measure()
    for count, least in (("2", 1.8), ("4", 3.5)):
        row = report["ranks"][count]
        assert row["throttled"]["bit_exact"]
        assert row["throttled"]["times"] >= least
        assert row["page_cache"]["plan"]["mode"] == "independent"


@pytest.mark.slow
def test_replicas_get_the_same_bytes_by_every_way_also_when_a_machine_dies(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(os.urandom(100_000_000))
    report = replicas.measure(tmp_path, replicas=3, throttle=50, repeats=1)
    assert report["exact"]
    assert report["late"] == "plain"
    (only,) = report["rounds"]
    assert only["together_ways"] == ["gathered", "gathered", "shared"], only["reason"]
    assert len(report["killed"]) >= 1


def test_what_the_page_cache_holds_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(os.urandom(3_000_000))
    seconds = replicas.measure_hot(tmp_path, rounds=2)
    assert set(seconds) == {"plain", "product"}
    assert all(each > 0 for each in seconds.values())
