"""How symmoe's recruiters fare among the routers of a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmoe.errors import SuiteError
from symmoe.evaluation.replay.compare import replay
from symmoe.evaluation.replay.contest import ROUTERS
from symmoe.evaluation.replay.records import RecordedSet, read_sets, write_set
from symmoe.evaluation.replay.recruiting import train_on
from symmoe.evaluation.replay.routers import Embedded

from .conftest import MODELS, TOPICS, TRAIN, TopicEmbedder, drawn, recorded, reordered, with_useless

pytestmark = pytest.mark.usefixtures("few_resamples")
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
    row = rows(CHANCE_TRAIN, CHANCE_TEST)[router]
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
    assert found["clusters"]["mean"] == found["symmoe"]["mean"] == 90.0


def test_two_test_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "mixed.json", CHANCE_TEST[0])
    write_set(tmp_path / "mixed_test.json", CHANCE_TEST[1])
    with pytest.raises(SuiteError, match="mixed"):
        rows(CHANCE_TRAIN, read_sets(tmp_path))


def test_topics_are_learned_from_the_questions_and_never_from_the_scores() -> None:
    turned = [replace(each, scores=1 - each.scores) for each in TRAIN]
    asked = embedded([recorded("new", 40, (0.4, 0.3, 0.3))])[0]
    told = [
        train_on(embedded(sets), 0, TopicEmbedder()).tag(asked.recorded.questions, asked.vectors)
        for sets in (TRAIN, turned)
    ]
    assert told[0] == told[1]


def test_a_record_counts_every_training_question_and_all_that_its_model_earned() -> None:
    trained = train_on(embedded(TRAIN), 0, TopicEmbedder())
    earned = np.concatenate([each.scores for each in TRAIN]).sum(axis=0)
    assert tuple(trained.profiles.experts) == MODELS
    for model, right in zip(MODELS, earned, strict=True):
        record = trained.profiles.experts[model]
        assert record.overall.asked == pytest.approx(360)
        assert record.overall.right == pytest.approx(right)
        topics = [tally for skill, tally in record.skills.items() if skill in trained.profiles.parents]
        assert sum(tally.asked for tally in topics) == pytest.approx(360)


def test_a_question_is_tagged_with_a_topic_on_which_its_specialist_is_on_record() -> None:
    trained = train_on(embedded(TRAIN), 0, TopicEmbedder())
    for model, topic in zip(MODELS, TOPICS, strict=True):
        question = f"{topic} never asked before"
        (found,) = trained.tag([question], TopicEmbedder().embed([question]))
        tallies = {name: trained.profiles.experts[name].skills[found.matches[0].skill] for name in MODELS}
        assert max(tallies, key=lambda name: tallies[name].score) == model
