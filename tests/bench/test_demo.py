from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from symmoe.batch.record import Files
from symmoe.bench.demo import demo_report, plot_report
from symmoe.bench.lines import _kill_at, _rows
from symmoe.bench.lines import measure as measure_lines
from symmoe.bench.planning import LOAD_SECONDS, QUESTIONS, SPREAD, K, Noisy, dispatched, judge, measure, simulated_pool
from symmoe.planning.scheduling import Schedule, Share, schedule
from symmoe.planning.simulation import AsPredicted, simulate
from symmoe.profiles.marking import Matrix
from symmoe.types import Answer, Candidate, Load, Outcome, Refusal, Trace
from tests.fakes import candidate, question
from tests.planning.problems import problem

ASKED = [
    question("one", "1", "sums", "number", ident="q1"),
    question("two", "2", "sums", "number", ident="q2"),
    question("three", "3", "words", "exact", ident="q3"),
    question("four", "4", "words", "exact", ident="q4"),
]
#                                   q1     q2     q3     q4
MATRIX = Matrix(
    tuple(ASKED),
    {"a": (True, False, False, True), "b": (False, False, False, True)},
    12.3456,
    {"a": 50, "b": 30},
    {"a": ("1", "1", "1", "4"), "b": ("?", "?", "?", "4")},
)


def trace(ident: str, text: str, *candidates: Candidate) -> Trace:
    prompt = sum(c.prompt_tokens for c in candidates if not c.shared)
    completion = sum(c.completion_tokens for c in candidates if not c.shared)
    said = Answer(ident, text, candidates[0].expert, (), "stop", prompt, completion)
    return Trace(ident, (), {}, tuple(c.expert for c in candidates), candidates, (), said)


@pytest.fixture
def report() -> dict[str, Any]:
    outcome = Outcome(
        results=(
            trace("q1", "1", candidate("a", "1"), candidate("a", "1", slot=1, shared=True)),
            trace("q2", "2", candidate("b", "2"), candidate("a", "5")),
            trace("q3", "three", candidate("a", "three")),
            Refusal("q4", "context_length_exceeded", "too long"),
        ),
        loads=(Load("a", "merged", 0.25, 100, "why"), Load("b", "swap", 0.5, 50, "why")),
        seconds={"tag": 0.12345, "load": 0.75},
    )
    return demo_report(ASKED, outcome, MATRIX, engine_start=8.21994, settings={"k": 2})


def test_accuracies_are_those_counted_by_hand(report: dict[str, Any]) -> None:
    assert report["questions"] == 4
    # symmoe: q1 and q2; best single: a with q1 and q4; at random: (2 + 1) of 8; in hindsight: q1 and q4
    assert report["accuracy"] == {"symmoe": 0.5, "best_single": 0.5, "random_expert": 0.375, "oracle": 0.5}
    assert report["best_single"] == "a"


def test_generated_families_and_everyday_questions_are_told_apart_where_both_are_asked(report: dict[str, Any]) -> None:
    assert report["kinds"] == {}
    mixed = [replace(each, family="roman") if each.family == "sums" else each for each in ASKED]
    kinds = demo_report(mixed, Outcome((trace("q1", "1", candidate("a", "1")),) * 4), MATRIX, 0.0, {})["kinds"]
    assert kinds["all families"] == {"symmoe": 0.5, "best_single": 0.5, "random_expert": 0.25, "oracle": 0.5}
    assert kinds["all everyday"] == {"symmoe": 0.0, "best_single": 0.5, "random_expert": 0.5, "oracle": 0.5}


def test_families_are_told_one_by_one(report: dict[str, Any]) -> None:
    assert report["families"] == {
        "sums": {"symmoe": 1.0, "best_single": 0.5, "random_expert": 0.25, "oracle": 0.5},
        "words": {"symmoe": 0.0, "best_single": 0.5, "random_expert": 0.5, "oracle": 0.5},
    }


def test_what_each_expert_did_is_told_and_shared_candidates_are_no_requests(report: dict[str, Any]) -> None:
    assert report["experts"] == {
        "a": {
            "loads": 1, "requests": 3, "lane": "merged", "swap_seconds": 0.25, "bytes": 100, "accuracy_alone": 0.5,
        },
        "b": {"loads": 1, "requests": 1, "lane": "swap", "swap_seconds": 0.5, "bytes": 50, "accuracy_alone": 0.25},
    }  # fmt: skip


def test_seconds_and_tokens_are_those_of_the_run_and_the_baselines_stand_apart(report: dict[str, Any]) -> None:
    assert report["seconds"] == {"engine_start": 8.22, "tag": 0.123, "load": 0.75}
    assert report["tokens"] == {"prompt": 40, "completion": 20}
    assert report["reference"] == {"seconds": 12.346, "completion_tokens": 80}
    assert report["settings"] == {"k": 2}


def test_a_report_is_json(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report


def test_an_expert_that_was_not_needed_has_no_lane() -> None:
    outcome = Outcome((trace("q1", "1", candidate("a", "1")),))
    matrix = Matrix((ASKED[0],), {"a": (True,), "b": (False,)}, 1.0, {"a": 1, "b": 0}, {"a": ("1",), "b": ("?",)})
    told = demo_report(ASKED[:1], outcome, matrix, 0.0, {})["experts"]["b"]
    assert (told["loads"], told["requests"], told["lane"]) == (0, 0, None)


def test_the_plot_of_a_report_is_a_picture(report: dict[str, Any], tmp_path: Path) -> None:
    plot_report(report, tmp_path / "plot.png")
    content = (tmp_path / "plot.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    assert width > 2 * height > 400


def test_rows_are_of_a_kilobyte_and_no_two_alike() -> None:
    rows = list(_rows(50, Random(0)))
    assert len(set(rows)) == 50
    assert all(900 < len(row) < 1000 for row in rows)
    assert list(_rows(50, Random(0))) == rows


def test_a_job_is_left_as_a_kill_would_have_left_it(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    folder = Files(output).folder
    folder.mkdir()
    commits = [{"k": 3}, {"lines": 4}, {"lines": 12}, {"lines": 20}]
    (folder / "commits").write_text("".join(json.dumps(each) + "\n" for each in commits), encoding="utf-8")
    _kill_at(output, 15)
    assert [json.loads(line) for line in (folder / "commits").read_text().splitlines()] == commits[:3]


@pytest.mark.slow
def test_jobs_of_two_sizes_are_measured_beside_the_rival(state: Path) -> None:
    kept: list[set[str]] = []
    report = measure_lines(1000, keep=lambda so_far: kept.append(set(so_far)))
    assert [len(each) for each in kept] == sorted(len(each) for each in kept)
    assert kept[0] == {"lines", "row_bytes", "k", "runs"}, "what was measured first is there when a later part fails"
    assert report["whole"]
    assert {name: run["lines"] for name, run in report["runs"].items()} == {"small": 100, "rival": 100, "large": 1000}
    assert report["resumed"]["first_new_row_seconds"] > 0
    assert all(bar["measured"] is not None for bar in report["bars"].values())


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
