from __future__ import annotations

import json

import pytest

from symmoe.bench.planning import (
    LOAD_SECONDS,
    QUESTIONS,
    SPREAD,
    K,
    Noisy,
    dispatched,
    judge,
    measure,
    simulated_pool,
)
from symmoe.planning.scheduling import Schedule, Share, schedule
from symmoe.planning.simulation import AsPredicted, simulate
from tests.planning.problems import problem


def test_a_simulated_pool_has_the_published_costs() -> None:
    pool = simulated_pool(16, 4, seed=2)
    requests = [cost.request for cost in pool.costs.values()]
    assert sum(pool.requests.values()) == QUESTIONS * K
    assert max(requests) / min(requests) == pytest.approx(SPREAD)
    assert all(LOAD_SECONDS[0] <= cost.load <= LOAD_SECONDS[1] for cost in pool.costs.values())
    assert 50 < max(pool.requests.values()) / min(pool.requests.values()) < 200
    assert simulated_pool(16, 4, seed=2) == pool != simulated_pool(16, 4, seed=3)


def test_no_way_ends_before_the_bound_and_none_before_ours() -> None:
    judged = judge(simulated_pool(6, 4, seed=1))
    assert all(judged.bound <= seconds * (1 + 1e-9) for seconds in judged.seconds.values())
    assert min(judged.seconds, key=lambda way: judged.seconds[way]) == "symmoe"
    assert judged.planning > 0


def test_the_report_tells_worst_and_median_and_is_json() -> None:
    told: list[str] = []
    report = measure(range(2), [(16, 4)], told.append)
    (case,) = report["cases"]
    assert case["over_bound"]["symmoe"]["median"] <= case["over_bound"]["symmoe"]["worst"] <= 1.05
    assert case["times_ours"]["round robin"]["least"] <= case["times_ours"]["round robin"]["median"]
    assert report["bars"]["round_robin_over_ours_published_median"]["measured"] > 1
    assert json.loads(json.dumps(report)) == report
    assert told == ["16 experts, 4 devices", "plans gone wrong"]


def test_work_that_is_handed_out_ends_as_planned_where_nothing_goes_wrong_and_idle_workers_relieve_others() -> None:
    of = simulated_pool(16, 4, seed=1)
    found = schedule(of, program_seconds=0)
    assert dispatched(found, of, AsPredicted(of)) == pytest.approx(found.makespan)
    truth = Noisy(of, 1, slow={0: 3.0})
    assert dispatched(found, of, truth) < simulate(found, of, truth).makespan
    crowded = problem({"a": 40, "b": 30, "c": 20}, 2)
    lopsided = Schedule(((Share("a", 40), Share("b", 30), Share("c", 20)), ()), (120.0, 0.0), 0.0, "search", False)
    assert dispatched(lopsided, crowded, AsPredicted(crowded)) < 75


def test_noise_has_the_mean_that_was_predicted_and_is_the_same_under_one_seed() -> None:
    of = problem({"a": 1}, 1)
    noise = Noisy(of, 3, experts=0.0)
    drawn = [noise.request(0, "a", number) for number in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1.0, rel=0.05)
    assert drawn[:9] == [Noisy(of, 3, experts=0.0).request(0, "a", number) for number in range(9)]
    assert drawn[:9] != [Noisy(of, 4, experts=0.0).request(0, "a", number) for number in range(9)]
    assert noise.load(0, "a", None) != 10
    assert noise.load(0, "a", "a") == 0
