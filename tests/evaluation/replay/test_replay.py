"""What a replay reports, and which files of recorded scores it reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmoe.errors import SuiteError
from symmoe.evaluation.plot import plot_replay
from symmoe.evaluation.replay.compare import replay
from symmoe.evaluation.replay.contest import ROUTERS
from symmoe.evaluation.replay.records import read_sets, write_set
from symmoe.evaluation.replay.routers import Embedded

from .conftest import TEST, TRAIN, TopicEmbedder, recorded

Report = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def report() -> Report:
    return replay(TRAIN, TEST, TopicEmbedder(), seed=0)


@pytest.mark.parametrize("router", ["knn", "clusters", "ridge", "symbolic_moe", "symmoe"])
def test_routers_that_read_the_question_reach_the_oracle_where_topics_decide(report: Report, router: str) -> None:
    assert report["routers"][router]["mean"] == report["routers"]["oracle"]["mean"] == 90.0


def test_the_random_router_earns_the_mean_of_all_models(report: Report) -> None:
    expected = 100 * np.mean([each.scores.mean() for each in TEST])
    assert report["routers"]["random"]["mean"] == pytest.approx(expected, abs=0.01)


def test_being_told_the_set_helps_on_seen_sets_and_not_on_others(report: Report) -> None:
    best, told = report["routers"]["best_single"]["sets"], report["routers"]["dataset_best"]["sets"]
    assert told["mixed"] >= best["mixed"]
    assert told["kitchen"] == best["kitchen"]


def test_sets_say_whether_training_saw_them(report: Report) -> None:
    assert report["sets"] == {"mixed": {"n": 90, "seen": True}, "kitchen": {"n": 60, "seen": False}}


def test_every_interval_holds_its_mean(report: Report) -> None:
    for row in report["routers"].values():
        low, high = row["ci95"]
        assert low - 0.01 <= row["mean"] <= high + 0.01


def test_equal_seeds_give_equal_reports(report: Report) -> None:
    assert replay(TRAIN, TEST, TopicEmbedder(), seed=0) == report


def test_the_order_of_the_models_changes_nothing(report: Report) -> None:
    turned = ("third", "first", "second")
    train = [recorded("mixed", 240, (0.4, 0.3, 0.3), turned), recorded("garden", 120, (0.1, 0.9, 0.0), turned)]
    test = [recorded("mixed", 90, (0.4, 0.3, 0.3), turned), recorded("kitchen", 60, (0.0, 0.1, 0.9), turned)]
    assert replay(train, test, TopicEmbedder(), seed=0) == report


def test_no_router_looks_at_test_scores_but_the_oracle() -> None:
    fitted_on = [Embedded(each, TopicEmbedder().embed(each.questions)) for each in TRAIN]
    shown = Embedded(TEST[0], TopicEmbedder().embed(TEST[0].questions))
    hidden = replace(shown, recorded=replace(TEST[0], scores=1 - TEST[0].scores))
    for name, fit in ROUTERS.items():
        route = fit(fitted_on, 0, TopicEmbedder())
        assert np.array_equal(route(shown), route(hidden)) == (name != "oracle")


def test_every_router_divides_each_question_among_the_models() -> None:
    fitted_on = [Embedded(each, TopicEmbedder().embed(each.questions)) for each in TRAIN]
    for name, fit in ROUTERS.items():
        shares = fit(fitted_on, 0, TopicEmbedder())(fitted_on[1])
        assert shares.shape == (120, 3), name
        assert shares.min() >= 0
        assert shares.sum(axis=1) == pytest.approx(1)


def test_a_row_tells_what_was_earned_on_sets_seen_and_unseen_apart(report: Report) -> None:
    for name, row in report["routers"].items():
        assert row["mean_seen"] == row["sets"]["mixed"], name
        assert row["mean_unseen"] == row["sets"]["kitchen"], name
        assert row["mean"] == pytest.approx((row["mean_seen"] + row["mean_unseen"]) / 2, abs=0.011)


@pytest.mark.usefixtures("few_resamples")
def test_where_no_set_is_unseen_its_mean_is_nothing() -> None:
    row = replay(TRAIN, TRAIN, TopicEmbedder(), seed=0)["routers"]["symmoe"]
    assert row["mean_unseen"] is None
    assert row["mean_seen"] == row["mean"]


@pytest.mark.parametrize("base", ["best_single", "clusters"])
def test_a_row_tells_by_how_much_a_router_beats_others_as_a_paired_difference(report: Report, base: str) -> None:
    beaten = report["routers"][base]
    for row in report["routers"].values():
        over = row[f"over_{base}"]
        assert over["points"] == pytest.approx(row["mean"] - beaten["mean"], abs=0.011)
        low, high = over["ci95"]
        assert low - 0.01 <= over["points"] <= high + 0.01
    assert beaten[f"over_{base}"] == {"points": 0.0, "ci95": [0.0, 0.0]}


def test_a_report_is_json(report: Report) -> None:
    assert json.loads(json.dumps(report)) == report


def test_the_plot_of_a_replay_is_a_picture(report: Report, tmp_path: Path) -> None:
    plot_replay(report, tmp_path / "replay.png")
    content = (tmp_path / "replay.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    assert width > height > 200


def test_sets_read_back_equal_and_are_named_without_their_split(tmp_path: Path) -> None:
    write_set(tmp_path / "mixed_train.json", TRAIN[0])
    write_set(tmp_path / "rest-test.json", TRAIN[1])
    mixed, rest = read_sets(tmp_path)
    assert (mixed.name, rest.name) == ("mixed", "rest")
    assert mixed.questions == TRAIN[0].questions
    assert np.array_equal(mixed.scores, TRAIN[0].scores)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "no questions"),
        ("", "Invalid JSON"),
        ("not json", "Invalid JSON"),
        ('[{"question": "q", "scores": {"a": 1.5}}]', r"0\.scores\.a"),
        ('[{"question": "q", "scores": {"a": 1}}, {"question": "q", "scores": {"a": -0.1}}]', r"1\.scores\.a"),
        ('[{"question": "q", "scores": {"a": NaN}}]', r"0\.scores\.a"),
        ('[{"question": "q", "scores": {}}]', r"0\.scores"),
        ('[{"question": "", "scores": {"a": 1}}]', r"0\.question"),
        ('[{"question": "q"}]', r"0\.scores"),
        ('[{"question": "q", "scores": {"a": 1}}, {"question": "r", "scores": {"b": 1}}]', "not the models"),
    ],
)
def test_a_bad_set_is_refused_with_its_file_and_its_fault(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(SuiteError, match=said) as raised:
        read_sets(tmp_path)
    assert "bad.json" in str(raised.value)


def test_a_directory_without_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="no JSON file"):
        read_sets(tmp_path)


def test_a_test_set_that_scores_other_models_than_training_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "mixed.json", TRAIN[0])
    with pytest.raises(SuiteError, match="not the models"):
        read_sets(tmp_path, ("first", "second", "fourth"))


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="nowhere: no JSON file"):
        read_sets(tmp_path / "nowhere")
