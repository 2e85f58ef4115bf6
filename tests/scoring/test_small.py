from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from symmoe.errors import CheckpointError, ConfigError
from symmoe.scoring.conversation import Conversation
from symmoe.scoring.heads import Floats, Heads
from symmoe.scoring.preference import GateRecipe
from symmoe.scoring.small import LENGTH, GateFit, SmallScorer, fit_heads
from symmoe.scoring.states import load_states
from symmoe.types import Query, Reward
from tests.fakes import query
from tests.scoring.planted import ANSWER_WIDTH, OBJECTIVES, PROMPT_WIDTH, World
from tests.scoring.tiny import CONVERSATIONS, HIDDEN, write_armorm

WORLD = World()
RECIPE = GateRecipe(hidden=(16,), steps=150, batch_size=512, learning_rate=0.02)


@pytest.fixture(scope="module")
def fit() -> tuple[Heads, GateFit]:
    return fit_heads(WORLD.rated(1500, missing=0.3), WORLD.preferred(1500)[0], OBJECTIVES, RECIPE)


def test_neither_objectives_nor_score_keep_a_correlation_with_the_length(fit: tuple[Heads, GateFit]) -> None:
    heads, report = fit
    rated = WORLD.rated(1500, missing=0.3)
    ratings = heads.rate(rated.answers)
    scores = heads.score(ratings, heads.gate.weigh(rated.prompts))
    assert abs(spearmanr(scores, rated.lengths).statistic) <= 0.03
    for place, name in enumerate(OBJECTIVES):
        reached = spearmanr((ratings @ heads.transform)[:, place], rated.lengths).statistic
        assert abs(reached) <= 0.03
        assert report.after[name] == pytest.approx(reached, abs=2e-3)
        assert report.before[name] > 0.3
    assert abs(report.after["score"]) <= 0.03
    assert abs(report.before["score"]) > abs(report.after["score"])


def test_the_score_of_new_answers_follows_quality_and_hardly_length(fit: tuple[Heads, GateFit]) -> None:
    heads, _ = fit
    pairs, clusters = WORLD.preferred(800, seed=99)
    weights = heads.gate.weigh(pairs.prompts)
    margin = heads.score(heads.rate(pairs.chosen), weights) - heads.score(heads.rate(pairs.rejected), weights)
    assert (margin > 0).mean() > 0.9
    assert (weights[:, :2].argmax(axis=1) == clusters).mean() > 0.95
    fresh = WORLD.rated(1500, seed=5)
    scores = heads.score(heads.rate(fresh.answers), heads.gate.weigh(fresh.prompts))
    assert abs(spearmanr(scores, fresh.lengths).statistic) < 0.1


def test_the_report_says_what_went_in_and_how_well_the_gate_ranks(fit: tuple[Heads, GateFit]) -> None:
    heads, report = fit
    assert heads.objectives == (*OBJECTIVES, LENGTH)
    assert set(report.rated) == set(report.kept) == {*OBJECTIVES, LENGTH}
    assert report.rated[LENGTH] == 1500
    assert 950 < report.rated["polite"] < 1150
    assert report.pairs == 1500
    assert report.accuracy > 0.9
    assert report.loss < 0.4


def test_equal_data_and_recipes_give_equal_heads() -> None:
    recipe = replace(RECIPE, steps=10)
    first, second = (fit_heads(WORLD.rated(200), WORLD.preferred(100)[0], OBJECTIVES, recipe)[0] for _ in range(2))
    assert (first.transform == second.transform).all()
    assert (first.penalty == second.penalty).all()
    assert (first.gate.layers[0][0] == second.gate.layers[0][0]).all()


def test_an_objective_may_not_be_called_length() -> None:
    with pytest.raises(ConfigError, match="an objective is called 'length'"):
        fit_heads(WORLD.rated(50), WORLD.preferred(10)[0], ("correct", "length"), RECIPE)


class Planted:
    """States by the words of a text, and how many rows were asked for."""

    def __init__(self, width: int = ANSWER_WIDTH) -> None:
        self._width = width
        self.asked = 0

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        rows = [(q, text) for q, row in zip(queries, candidates, strict=True) for text in row]
        self.asked += len(rows)
        prompts = np.array([[len(q.text)] * PROMPT_WIDTH for q, _ in rows], dtype=np.float32)
        answers = np.array([[len(text)] * self._width for _, text in rows], dtype=np.float32)
        answers[[text == "unreadable" for _, text in rows]] = np.nan
        return prompts, answers


def test_rewards_come_in_order_and_empty_or_unreadable_answers_have_none(fit: tuple[Heads, GateFit]) -> None:
    heads, states = fit[0], Planted()
    queries = [query("one"), query("two", "r"), query("longer", "s")]
    rewards = SmallScorer(heads, states).score(queries, [["yes", "", "unreadable"], [], ["yes", "maybe"]])
    assert states.asked == 4
    assert [[r.score is None for r in row] for row in rewards] == [[False, True, True], [], [False, False]]
    assert rewards[0][1:] == [
        Reward(None, note="empty answer"),
        Reward(None, note="the model's hidden state is not finite"),
    ]
    assert rewards[0][0].objectives == rewards[2][0].objectives != rewards[2][1].objectives
    assert rewards[0][0].weights != rewards[2][0].weights == rewards[2][1].weights
    expected = heads.rewards(*states([query("longer")], [["maybe"]]))[0]
    assert rewards[2][1].score == pytest.approx(expected.score)


def test_nothing_to_read_asks_for_no_states(fit: tuple[Heads, GateFit]) -> None:
    states = Planted()
    assert SmallScorer(fit[0], states).score([query("one")], [["", " "]]) == [[Reward(None, note="empty answer")] * 2]
    assert states.asked == 0


def test_states_of_another_model_are_refused(fit: tuple[Heads, GateFit]) -> None:
    with pytest.raises(CheckpointError, match=r"hidden states are \(1, 6\) and \(1, 13\); the gate reads .*\(1, 12\)"):
        SmallScorer(fit[0], Planted(ANSWER_WIDTH + 1)).score([query("one")], [["yes"]])


def test_a_backbone_gives_the_states_of_every_answer_and_nan_for_one_that_it_cannot_read(tmp_path: Path) -> None:
    directory = write_armorm(tmp_path / "model")
    queries, answers = [q for q, _ in CONVERSATIONS], [[*texts, ""] for _, texts in CONVERSATIONS]
    prompts, states = load_states(directory, budget=150)(queries, answers)
    alone = [load_states(directory)([q], [[text]]) for q, row in zip(queries, answers, strict=True) for text in row]
    assert prompts.shape == states.shape == (11, HIDDEN)
    assert np.isnan(states).all(axis=1).tolist() == [not text for row in answers for text in row]
    np.testing.assert_allclose(prompts, np.concatenate([p for p, _ in alone]), atol=1e-4)
    np.testing.assert_allclose(states, np.concatenate([s for _, s in alone]), atol=1e-4)
    assert np.ptp(states[:3], axis=0).max() > 0.1


def test_a_pooled_backbone_gives_the_mean_from_the_gates_token_on(tmp_path: Path) -> None:
    directory = write_armorm(tmp_path / "model")
    query_, (first, *_) = CONVERSATIONS[0]
    backbone = load_states(directory, pooling="mean")
    prompts, means = backbone([query_], [[first]])
    (conversation,) = backbone.tokens.encode(query_, [first])
    assert isinstance(conversation, Conversation)
    ends = [replace(conversation, ids=conversation.ids[: end + 1]) for end in range(len(conversation.ids))]
    single = [load_states(directory).read([end])[1][0] for end in ends[conversation.gate :]]
    np.testing.assert_allclose(means[0], np.mean(single, axis=0), atol=1e-4)
    np.testing.assert_allclose(prompts[0], single[0], atol=1e-4)
