from __future__ import annotations

from typing import Any

import pytest

from symmoe.bench.gathering import measure


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
