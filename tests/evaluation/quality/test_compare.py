from __future__ import annotations

import json
from typing import Any

import pytest

from symmoe.evaluation.quality.bars import NEEDED, judged
from symmoe.evaluation.quality.compare import compare
from symmoe.evaluation.quality.names import BARS, NAMES
from symmoe.evaluation.quality.spent import Spent
from symmoe.types import Call

from .conftest import Hall, suite


def knows_all(expert: str, call: Call) -> str:
    """The adder is right on user's questions alone; others, and whoever reads others' answers, are wrong."""
    alone = call.query.messages[0].role == "user"
    return call.query.text.split()[-1] if expert == "adder" and alone else "99"


@pytest.fixture
def report(hall: Hall) -> dict[str, Any]:
    contest = hall.contest(knows_all, questions=1)
    questions = suite(8)
    suites = {"first": questions[:6], "second": questions[6:]}
    return compare(contest.assembly, suites, 2, 0, 0.7, None, 3)


def test_every_way_is_in_the_report_and_has_a_name(report: dict[str, Any]) -> None:
    assert list(report["ways"]) == ["symmoe", *(name for name in NAMES if name != "symmoe")]
    assert report["bars"].keys() == BARS.keys()
    assert json.loads(json.dumps(report)) == report


def test_accuracies_and_leads_are_those_of_the_answers(report: dict[str, Any]) -> None:
    accuracy = {name: row["accuracy"] for name, row in report["ways"].items()}
    assert accuracy["symmoe"] == accuracy["best_single"] == accuracy["oracle"] == 100
    assert accuracy["moa"] == accuracy["self_moa"] == accuracy["symbolic_moe"] == accuracy["all_vote"] == 0
    assert report["ways"]["moa"]["symmoe_leads_by"] == {"points": 100.0, "ci95": [100.0, 100.0]}
    assert report["ways"]["best_single"]["symmoe_leads_by"] == {"points": 0.0, "ci95": [0.0, 0.0]}
    assert report["ways"]["symmoe"]["symmoe_leads_by"] is None
    assert report["ways"]["oracle"]["right"] == "1" * 8


def test_calls_are_those_that_each_way_would_make_alone(report: dict[str, Any]) -> None:
    calls = {name: row["calls"] for name, row in report["ways"].items()}
    assert (calls["best_single"], calls["best_single_hindsight"], calls["random_vote"]) == (8, 8, 16)
    assert (calls["all_vote"], calls["oracle"], calls["moa"]) == (24, 24, 32)
    assert (calls["self_moa"], calls["symbolic_moe"]) == (32, 24)
    assert calls["self_consistency"] == calls["symmoe"]  # every answer of the adder is one token long


def test_suites_and_families_are_told_apart(report: dict[str, Any]) -> None:
    assert report["suites"] == {"first": 6, "second": 2}
    assert report["families"] == {"sums": 8}
    assert report["ways"]["symmoe"]["suites"] == {"first": 100.0, "second": 100.0}
    assert report["ways"]["moa"]["families"] == {"sums": 0.0}


def test_the_settings_tell_who_played_which_part(report: dict[str, Any]) -> None:
    settings = report["settings"]
    assert settings["best_single"] == settings["best_single_hindsight"] == settings["aggregator"] == "adder"
    assert (settings["k"], settings["moa_proposers"], settings["self_moa_samples"]) == (2, 3, 3)
    assert settings["sampling"] == {"max_tokens": 16, "temperature": 0.7, "top_p": 1.0}


def test_a_claim_holds_only_with_enough_points_an_interval_above_zero_and_no_more_tokens() -> None:
    ours, low, high = [1.0] * 10, [0.0] * 10, [1.0] * 9 + [0.0]
    right = {
        "symmoe": ours,
        "moa": high,
        "self_moa": low,
        "all_vote": low,
        "self_consistency": low,
        "symbolic_moe": low,
    }
    spent = dict.fromkeys(right, Spent(1, 10, 10, 1.0))
    found = judged(right, spent, 0)
    assert found["best_multi_agent_rival"]["against"] == "moa"
    assert found["best_multi_agent_rival"]["points"] == 10.0 > NEEDED
    assert not found["best_multi_agent_rival"]["holds"]  # one question of ten: the interval reaches zero
    assert found["symbolic_moe_as_published"]["holds"]
    assert found["self_consistency_at_equal_tokens"]["holds"]
    dear = judged(right, spent | {"symmoe": Spent(1, 10, 11, 1.0)}, 0)
    assert not dear["symbolic_moe_as_published"]["holds"]
    assert dear["symbolic_moe_as_published"]["tokens"] == {"completion": [11, 10], "all": [21, 20]}
    assert dear["self_consistency_at_equal_tokens"]["holds"]


def test_a_lead_of_less_than_was_reported_is_not_enough() -> None:
    ours, theirs = [1.0] * 1000, [1.0] * 930 + [0.0] * 70
    right = dict.fromkeys(("symmoe", "moa", "self_moa", "all_vote", "self_consistency", "symbolic_moe"), theirs)
    found = judged(right | {"symmoe": ours}, dict.fromkeys(right, Spent()), 0)
    assert found["best_multi_agent_rival"]["ci95"][0] > 0
    assert not found["best_multi_agent_rival"]["holds"]
    assert found["symbolic_moe_as_published"]["holds"]
