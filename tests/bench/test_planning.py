from __future__ import annotations

import json

import pytest

from symmoe.bench.planning import LOAD_SECONDS, QUESTIONS, SPREAD, K, judge, measure, simulated_pool


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
