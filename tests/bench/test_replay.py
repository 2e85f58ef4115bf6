from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from symmoe.bench.replay import ROUTERS, Embedded, RecordedSet, learned_from, plot_replay, read_sets, replay
from symmoe.errors import SuiteError
from tests.fakes import ScatteringEmbedder, WordEmbedder

MODELS = ("first", "second", "third")
TOPICS = ("algebra", "botany", "cooking")


class TopicEmbedder(WordEmbedder):
    """Places a text near the axis of the topic that it names; equal texts come to lie at equal places."""

    def __init__(self, *vocabulary: str) -> None:
        super().__init__(*(vocabulary or TOPICS))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.hstack([super().embed(texts), 0.1 * ScatteringEmbedder().embed(texts)])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def recorded(name: str, size: int, weights: Sequence[float], models: Sequence[str] = MODELS) -> RecordedSet:
    """`weights` say how often each topic comes; the model at a topic's place earns 0.9 on it, the others 0.2."""
    rng = np.random.default_rng(size)
    topics = rng.choice(3, size=size, p=weights)
    scores = np.where(np.eye(3)[topics] == 1, 0.9, 0.2)
    return reordered(RecordedSet(name, _questions(topics), MODELS, scores), models)


def drawn(name: str, size: int, seed: int, good: float = 0.8, bad: float = 0.45) -> RecordedSet:
    """As `recorded`, but what is earned is left to chance, graded, and topics come equally often."""
    rng = np.random.default_rng([seed, size])
    topics = rng.integers(0, 3, size)
    chances = np.where(np.eye(3)[topics] == 1, good, bad)
    return RecordedSet(name, _questions(topics), MODELS, rng.beta(2 * chances, 2 * (1 - chances)))


def reordered(one: RecordedSet, models: Sequence[str]) -> RecordedSet:
    """The same scores with the models in another order."""
    order = [one.models.index(model) for model in models]
    return RecordedSet(one.name, one.questions, tuple(models), one.scores[:, order])


def with_useless(one: RecordedSet, place: int) -> RecordedSet:
    """The set with one more model, which is never right."""
    models = (*one.models[:place], "useless", *one.models[place:])
    return RecordedSet(one.name, one.questions, models, np.insert(one.scores, place, 0.0, axis=1))


def write_set(path: Path, recorded: RecordedSet) -> None:
    rows = [
        {"question": question, "scores": dict(zip(recorded.models, map(float, earned), strict=True))}
        for question, earned in zip(recorded.questions, recorded.scores, strict=True)
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def _questions(topics: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(f"{TOPICS[topic]} question {number}" for number, topic in enumerate(topics))


TRAIN = [recorded("mixed", 240, (0.4, 0.3, 0.3)), recorded("garden", 120, (0.1, 0.9, 0.0))]
TEST = [recorded("mixed", 90, (0.4, 0.3, 0.3)), recorded("kitchen", 60, (0.0, 0.1, 0.9))]


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Intervals are coarse and quickly found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("symmoe.bench.replay.RESAMPLES", 100)
        yield


CHANCE_TRAIN = [drawn("mixed", 150, 1), drawn("garden", 90, 2)]
CHANCE_TEST = [drawn("mixed", 120, 3), drawn("kitchen", 100, 4)]


def rows(train: Sequence[RecordedSet], test: Sequence[RecordedSet], seed: int = 0) -> dict[str, dict[str, Any]]:
    routers: dict[str, dict[str, Any]] = replay(train, test, TopicEmbedder(), seed)["routers"]
    return routers


def embedded(sets: Sequence[RecordedSet]) -> list[Embedded]:
    return [Embedded(each, TopicEmbedder().embed(each.questions)) for each in sets]


def test_symmoe_and_the_published_rule_stand_among_the_routers() -> None:
    assert {"random", "best_single", "clusters", "symbolic_moe", "symmoe", "oracle"} <= set(ROUTERS)
    assert set(rows(CHANCE_TRAIN, CHANCE_TEST)) == set(ROUTERS)


@pytest.mark.parametrize("router", ["symmoe", "symbolic_moe"])
def test_where_models_specialise_by_topic_a_recruiter_beats_the_best_single_model(router: str) -> None:
    train = [drawn("first", 480, 1), drawn("second", 480, 2)]  # enough of each set for regions of its own
    row = rows(train, CHANCE_TEST)[router]
    low, _ = row["over_best_single"]["ci95"]
    assert low > 0


def test_no_router_passes_the_oracle() -> None:
    found = rows(CHANCE_TRAIN, CHANCE_TEST)
    assert max(found, key=lambda name: float(found[name]["mean"])) == "oracle"


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_model_that_is_never_right_does_not_lower_what_symmoe_earns(place: int) -> None:
    without = rows(CHANCE_TRAIN, CHANCE_TEST)
    having = rows([with_useless(s, place) for s in CHANCE_TRAIN], [with_useless(s, place) for s in CHANCE_TEST])
    assert having["symmoe"]["sets"] == without["symmoe"]["sets"]
    assert having["random"]["mean"] < without["random"]["mean"]


@pytest.mark.parametrize("order", [("third", "second", "first"), ("second", "third", "first")])
def test_the_order_of_the_models_changes_nothing_for_any_router(order: tuple[str, ...]) -> None:
    turned = rows([reordered(s, order) for s in CHANCE_TRAIN], [reordered(s, order) for s in CHANCE_TEST])
    assert turned == rows(CHANCE_TRAIN, CHANCE_TEST)


def test_equal_seeds_give_equal_rows_and_another_seed_other_resamples() -> None:
    first = rows(CHANCE_TRAIN, CHANCE_TEST, seed=5)
    assert rows(CHANCE_TRAIN, CHANCE_TEST, seed=5) == first
    assert rows(CHANCE_TRAIN, CHANCE_TEST, seed=6)["symmoe"]["ci95"] != first["symmoe"]["ci95"]


def test_the_order_of_the_questions_of_a_test_set_changes_no_routers_mean() -> None:
    turned = [RecordedSet(s.name, s.questions[::-1], s.models, s.scores[::-1]) for s in CHANCE_TEST]
    first, second = rows(CHANCE_TRAIN, CHANCE_TEST), rows(CHANCE_TRAIN, turned)
    assert {n: row["sets"] for n, row in second.items()} == {n: row["sets"] for n, row in first.items()}


def test_of_a_single_model_every_router_earns_the_same() -> None:
    def alone(one: RecordedSet) -> RecordedSet:
        return RecordedSet(one.name, one.questions, ("second",), one.scores[:, 1:2])

    found = rows([alone(s) for s in CHANCE_TRAIN], [alone(s) for s in CHANCE_TEST])
    assert len({row["mean"] for row in found.values()}) == 1
    assert all(row["over_clusters"] == {"points": 0.0, "ci95": [0.0, 0.0]} for row in found.values())


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_where_all_models_earn_the_same_so_does_every_router(value: float) -> None:
    def levelled(one: RecordedSet) -> RecordedSet:
        return replace(one, scores=np.full_like(one.scores, value))

    found = rows([levelled(s) for s in CHANCE_TRAIN], [levelled(s) for s in CHANCE_TEST])
    assert {row["mean"] for row in found.values()} == {100 * value}


@pytest.mark.parametrize("size", [1, 2, 9])
def test_a_handful_of_training_questions_is_enough_to_route(size: int) -> None:
    found = rows([recorded("few", size, (1.0, 0.0, 0.0))], [recorded("algebra", 30, (1.0, 0.0, 0.0))])
    assert found["symmoe"]["mean"] == found["best_single"]["mean"] == 90.0


def test_fewer_distinct_questions_than_clusters_are_enough_to_route() -> None:
    few = recorded("few", 6, (0.4, 0.3, 0.3))
    often = RecordedSet("often", few.questions * 10, few.models, np.tile(few.scores, (10, 1)))
    found = rows([often], [recorded("mixed", 30, (0.4, 0.3, 0.3))])
    assert found["clusters"]["mean"] == 90.0
    assert found["symmoe"]["mean"] >= found["best_single"]["mean"]


def test_two_test_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "mixed.json", CHANCE_TEST[0])
    write_set(tmp_path / "mixed_test.json", CHANCE_TEST[1])
    with pytest.raises(SuiteError, match="mixed"):
        rows(CHANCE_TRAIN, read_sets(tmp_path))


def test_a_record_keeps_every_training_question_its_set_and_all_that_its_model_earned() -> None:
    learned = learned_from(embedded(TRAIN))
    earned = np.concatenate([each.scores for each in TRAIN]).sum(axis=0)
    assert tuple(learned.experts) == MODELS
    assert {each.group for each in learned.questions.values()} == {"mixed", "garden"}
    for model, right in zip(MODELS, earned, strict=True):
        assert learned.experts[model].overall.asked == pytest.approx(360)
        assert learned.experts[model].overall.right == pytest.approx(right)


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
