"""Replay on recorded scores made by hand: three topics, three models, each model good at one topic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from symmoe.errors import SuiteError
from symmoe.evaluation.replay.compare import replay
from symmoe.evaluation.replay.records import RecordedSet, read_sets, write_set
from symmoe.evaluation.replay.routers import ROUTERS

MODELS = ("first", "second", "third")
TOPICS = ("algebra", "botany", "cooking")


class TopicEmbedder:
    """Places a question near the axis of the topic that its first word names."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.array([np.eye(3)[TOPICS.index(text.split()[0])] for text in texts])
        rows += 0.05 * np.random.default_rng(len(texts)).standard_normal(rows.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def recorded(name: str, size: int, weights: Sequence[float], models: Sequence[str] = MODELS) -> RecordedSet:
    """`weights` say how often each topic comes; the model at a topic's place earns 0.9 on it, the others 0.2."""
    rng = np.random.default_rng(size)
    topics = rng.choice(3, size=size, p=weights)
    scores = np.where(np.eye(3)[topics] == 1, 0.9, 0.2)
    order = [MODELS.index(model) for model in models]
    questions = tuple(f"{TOPICS[topic]} question {number}" for number, topic in enumerate(topics))
    return RecordedSet(name, questions, tuple(models), scores[:, order])


TRAIN = [recorded("mixed", 240, (0.4, 0.3, 0.3)), recorded("garden", 120, (0.1, 0.9, 0.0))]
TEST = [recorded("mixed", 90, (0.4, 0.3, 0.3)), recorded("kitchen", 60, (0.0, 0.1, 0.9))]


@pytest.fixture(scope="module")
def report() -> dict[str, dict[str, dict[str, float]]]:
    return replay(TRAIN, TEST, TopicEmbedder(), seed=0)


@pytest.mark.parametrize("router", ["knn", "clusters", "ridge"])
def test_routers_that_read_the_question_reach_the_oracle_where_topics_decide(
    report: dict[str, dict[str, dict[str, float]]], router: str
) -> None:
    assert report["routers"][router]["mean"] == report["routers"]["oracle"]["mean"] == 90.0


def test_the_random_router_earns_the_mean_of_all_models(report: dict[str, dict[str, dict[str, float]]]) -> None:
    expected = 100 * np.mean([each.scores.mean() for each in TEST])
    assert report["routers"]["random"]["mean"] == pytest.approx(expected, abs=0.01)


def test_being_told_the_set_helps_on_seen_sets_and_not_on_others(
    report: dict[str, dict[str, dict[str, dict[str, float]]]],
) -> None:
    best, told = report["routers"]["best_single"]["sets"], report["routers"]["dataset_best"]["sets"]
    assert told["mixed"] >= best["mixed"]
    assert told["kitchen"] == best["kitchen"]


def test_sets_say_whether_training_saw_them(report: dict[str, object]) -> None:
    assert report["sets"] == {"mixed": {"n": 90, "seen": True}, "kitchen": {"n": 60, "seen": False}}


def test_the_paired_difference_of_the_best_single_model_from_itself_is_nothing(
    report: dict[str, dict[str, dict[str, object]]],
) -> None:
    assert report["routers"]["best_single"]["over_best_single"] == {"points": 0.0, "ci95": [0.0, 0.0]}


def test_every_interval_holds_its_mean(report: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    for row in report["routers"].values():
        low, high = row["ci95"]
        assert low - 0.01 <= row["mean"] <= high + 0.01


def test_equal_seeds_give_equal_reports(report: dict[str, object]) -> None:
    assert replay(TRAIN, TEST, TopicEmbedder(), seed=0) == report


def test_the_order_of_the_models_changes_nothing(report: dict[str, object]) -> None:
    turned = ("third", "first", "second")
    train = [recorded("mixed", 240, (0.4, 0.3, 0.3), turned), recorded("garden", 120, (0.1, 0.9, 0.0), turned)]
    test = [recorded("mixed", 90, (0.4, 0.3, 0.3), turned), recorded("kitchen", 60, (0.0, 0.1, 0.9), turned)]
    assert replay(train, test, TopicEmbedder(), seed=0) == report


def test_no_router_looks_at_test_scores_but_the_oracle(report: dict[str, dict[str, object]]) -> None:
    hidden = [RecordedSet(t.name, t.questions, t.models, 1 - t.scores) for t in TEST]
    from symmoe.evaluation.replay.routers import Embedded

    fitted_on = [Embedded(each, TopicEmbedder().embed(each.questions)) for each in TRAIN]
    for name, fit in ROUTERS.items():
        route = fit(fitted_on, 0)
        shown, blind = (route(Embedded(each, TopicEmbedder().embed(each.questions))) for each in (TEST[0], hidden[0]))
        assert np.array_equal(shown, blind) == (name != "oracle")


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
        ("not json", "Invalid JSON"),
        ('[{"question": "q", "scores": {"a": 1.5}}]', r"0\.scores\.a"),
        ('[{"question": "q", "scores": {"a": NaN}}]', r"0\.scores\.a"),
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
