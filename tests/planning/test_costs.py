from __future__ import annotations

import random
from dataclasses import replace

import pytest

from symmoe.pipeline import Watch, answer
from symmoe.planning.costs import (
    MOST_ROWS,
    WINDOW,
    CostModel,
    ExpertCost,
    StepTimes,
    keep_observations,
    recall_observations,
)
from symmoe.planning.grouping import Fleet
from symmoe.planning.problem import Worker
from symmoe.types import Load, Observation, Plan, Rates
from tests.fakes import candidate, echo_parts, everyone, query

MODELS = {"a": "one", "b": "one", "c": "two"}


class MemoryStore:
    """Tables in memory that keep the first value of a row, as the store does."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, object]]] = {}

    def put(self, table: str, rows: dict[str, dict[str, object]]) -> None:
        for key, row in rows.items():
            self.tables.setdefault(table, {}).setdefault(key, row)

    def rows(self, table: str) -> dict[str, dict[str, object]]:
        return dict(self.tables.get(table, {}))

    def drop(self, tables: list[str]) -> None:
        for table in tables:
            self.tables.pop(table, None)


def model(*observations: Observation, **known: dict[str, float]) -> CostModel:
    return CostModel(MODELS, observations=observations, **known)  # type: ignore[arg-type]


def test_a_load_costs_nothing_after_itself_a_swap_after_its_model_and_a_rebuild_after_another() -> None:
    costs = model(Observation("a", 40.0, "rebuild"), Observation("a", 0.5, "merged"))
    assert [costs.load("a", after) for after in ("a", "b", "c", None)] == [0.0, 0.5, 40.0, 40.0]


def test_an_expert_whose_engine_sleeps_costs_a_wake_which_is_measured_by_itself() -> None:
    costs = model(Observation("a", 40.0, "rebuild"), Observation("a", 0.5, "merged"), Observation("a", 0.02, "wake"))
    assert (costs.cost("a").load, costs.cost("a").same_model, costs.cost("a").asleep) == (40.0, 0.5, 0.02)
    assert [costs.cost("a").after(False, same, asleep=True) for same in (False, True)] == [0.02, 0.5]
    assert costs.cost("b").asleep == 0.02
    assert ExpertCost(2.0, 1.0, swap=0.5).asleep == 0.5


def test_a_swap_is_never_dearer_than_a_rebuild() -> None:
    assert model(Observation("a", 2.0, "rebuild"), Observation("a", 9.0, "swap")).load("a", "b") == 2.0
    assert ExpertCost(2.0, 1.0).same_model == 2.0


def test_one_load_from_a_cold_disk_does_not_move_the_estimate() -> None:
    seen = [Observation("a", seconds, "rebuild") for seconds in (10, 11, 400, 10, 11)]
    assert model(*seen).cost("a").load == 11


def test_a_step_of_few_requests_weighs_little() -> None:
    costs = model(Observation("a", 100.0, requests=100), Observation("a", 30.0, requests=1))
    assert costs.cost("a").request == 1.0


def test_only_the_last_observations_count() -> None:
    old = [Observation("a", 100.0, "rebuild")] * 50
    assert model(*old, *[Observation("a", 5.0, "rebuild")] * WINDOW).cost("a").load == 5.0


def test_estimates_come_near_the_truth_though_a_tenth_of_all_is_far_off() -> None:
    rng = random.Random(0)
    costs = model()
    for _ in range(60):
        off = 20.0 if rng.random() < 0.1 else 1.0
        costs.observe(Observation("a", 42.0 * rng.uniform(0.9, 1.1) * off, "rebuild"))
        costs.observe(Observation("a", 50 * 1.3 * rng.uniform(0.9, 1.1) * off, requests=50))
    assert costs.cost("a").load == pytest.approx(42, rel=0.1)
    assert costs.cost("a").request == pytest.approx(1.3, rel=0.1)


def test_an_expert_that_never_ran_costs_what_the_others_do_by_size_where_sizes_are_known() -> None:
    seen = (Observation("a", 10.0, "rebuild", 1000), Observation("a", 60.0, requests=10))
    assert model(*seen).cost("b") == ExpertCost(10.0, 6.0, 0, model().cost("b").swap, model().cost("b").wake)
    sized = model(*seen, sizes={"b": 3000}, tokens={"a": 100.0, "b": 50.0})
    assert (sized.cost("b").load, sized.cost("b").request) == (30.0, 3.0)


def test_before_anything_ran_an_expert_of_long_answers_costs_more() -> None:
    costs = model(tokens={"a": 10.0, "b": 200.0})
    assert costs.cost("b").request == 20 * costs.cost("a").request > 0
    assert costs.cost("a").load > costs.cost("a").same_model > 0
    assert not costs.measured("a")


def test_costs_are_measured_when_loads_and_requests_were_seen() -> None:
    costs = model(Observation("a", 1.0, "swap"))
    assert not costs.measured("a")
    costs.observe(Observation("a", 5.0, requests=5))
    assert costs.measured("a")
    assert set(costs.costs()) == set(MODELS)


def test_what_says_nothing_of_costs_is_passed_over() -> None:
    costs = model(Observation("a", 0.0, "resident"), Observation("a", 9.0), Observation("gone", 9.0, "swap"))
    assert costs.costs() == model().costs()


RATES = Rates(alone=100.0, storage=400.0, link=1000.0, overhead=0.5, measured=7.0)


def test_what_machines_measured_when_they_met_says_what_others_of_the_pool_would_save() -> None:
    costs = model(Observation("a", 20.0, "rebuild", 1000, rates=RATES), sizes={"c": 200})
    assert costs.cost("a").rates == costs.cost("c").rates == RATES
    assert costs.cost("a").saved(2) == 10.0 - (5.0 + 0.5)
    assert costs.cost("c").saved(4) == 2.0 - (0.5 + 0.5)
    newer = replace(RATES, measured=8.0)
    costs.observe(Observation("b", 20.0, "rebuild", 1000, rates=newer))
    assert costs.cost("c").rates == newer


def test_a_load_is_told_as_if_its_machine_had_read_alone() -> None:
    times = StepTimes(lambda: 0.0)
    times.load(Load("a", "rebuild", 8.0, 7, "", saved=3.0, rates=RATES))
    assert times.observations() == (Observation("a", 11.0, "rebuild", 7, rates=RATES),)


def test_rates_come_back_from_the_store() -> None:
    store, seen = MemoryStore(), [Observation("a", 1.0, "rebuild", 5, rates=RATES), Observation("a", 2.0, "swap")]
    keep_observations(store, "pool", seen)  # type: ignore[arg-type]
    assert recall_observations(store, "pool") == seen  # type: ignore[arg-type]


def test_a_run_is_timed_from_each_load_to_the_last_candidate() -> None:
    now = iter([10.0, 12.0, 15.0, 20.0, 21.0])
    times = StepTimes(lambda: next(now))
    times.load(Load("a", "rebuild", 8.0, 7, ""))
    times.candidates([candidate("a", "x"), candidate("a", "x", 1)])
    times.candidates([candidate("a", "y")])
    times.load(Load("b", "swap", 0.5, 3, ""))
    times.candidates([candidate("b", "y")])
    assert times.observations() == (
        Observation("a", 8.0, "rebuild", 7),
        Observation("b", 0.5, "swap", 3),
        Observation("a", 5.0, requests=2),
        Observation("b", 1.0, requests=1),
    )


def test_observations_come_back_from_the_store_in_their_order() -> None:
    store = MemoryStore()
    runs = [[Observation("a", float(run), "swap", run), Observation("a", 1.0, requests=run)] for run in range(1, 4)]
    for run in runs:
        keep_observations(store, "pool", run)  # type: ignore[arg-type]
    keep_observations(store, "other", [Observation("b", 9.0, "swap")])  # type: ignore[arg-type]
    assert recall_observations(store, "pool") == [seen for run in runs for seen in run]  # type: ignore[arg-type]


def test_many_observations_are_cut_to_those_that_count_and_estimates_stay() -> None:
    store = MemoryStore()
    seen = [Observation("abc"[n % 3], float(n % 17), ("swap", "rebuild")[n % 2]) for n in range(MOST_ROWS + 500)]
    for start in range(0, len(seen), 500):
        keep_observations(store, "pool", seen[start : start + 500])  # type: ignore[arg-type]
    kept = recall_observations(store, "pool")  # type: ignore[arg-type]
    assert len(kept) < 200
    assert sum(map(len, store.tables.values())) < 200
    assert model(*kept).costs() == model(*seen).costs()


def test_the_pipeline_tells_what_loads_and_steps_took() -> None:
    records = {"adder": {"sums": 9, "spanish": -3}, "speaker": {"sums": -3, "spanish": 9}}
    outcome = answer(
        echo_parts(records), [query("sums 1", "1"), query("sums 2", "2"), query("spanish 3", "3")], everyone(1), 0
    )
    steps = {seen.expert: seen for seen in outcome.observations if seen.lane is None}
    loads = [(seen.expert, seen.lane) for seen in outcome.observations if seen.lane is not None]
    assert loads == [(load.expert, load.lane) for load in outcome.loads]
    assert {expert: seen.requests for expert, seen in steps.items()} == {"adder": 2, "speaker": 1}
    assert all(0 < seen.seconds < outcome.seconds["generate"] + 1 for seen in steps.values())


def test_the_pipeline_plans_for_its_fleet() -> None:
    records = {"adder": {"sums": 9, "spanish": -3}, "speaker": {"sums": -3, "spanish": 9}}
    parts = echo_parts(records)
    costs = {name: ExpertCost(0.1, 1.0) for name in records}
    plans: list[Plan] = []
    queries = [query("sums 1", "1"), query("spanish 3", "2")]
    fleet = Fleet((Worker(), Worker()), costs)
    outcome = answer(replace(parts, fleet=fleet), queries, everyone(1), 0, watch=Watch(planned=plans.append))
    assert {step.worker for step in plans[0].steps} == {0, 1}
    assert [type(result).__name__ for result in outcome.results] == ["Trace", "Trace"]
