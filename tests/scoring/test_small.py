from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from symmoe.errors import CheckpointError, ConfigError
from symmoe.scoring.conversation import Conversation
from symmoe.scoring.heads import Floats, Heads
from symmoe.scoring.small import (
    BAR,
    LENGTH,
    GateFit,
    GateRecipe,
    SmallScorer,
    TrainedGate,
    debias,
    fit_heads,
    fit_ridges,
    spearman,
    train_gate,
)
from symmoe.scoring.states import load_states
from symmoe.types import Query, Reward
from tests.fakes import query
from tests.scoring.planted import ANSWER_WIDTH, OBJECTIVES, PROMPT_WIDTH, World
from tests.scoring.tiny import CONVERSATIONS, HIDDEN, write_armorm

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(400, 8)).astype(np.float32)
PLANTED = RNG.normal(size=(3, 8)).astype(np.float32)
OFFSETS = np.array([3.0, -1.0, 0.5], dtype=np.float32)
RATINGS = STATES @ PLANTED.T + OFFSETS
RATED = ("a", "b", "c")


def test_planted_objectives_are_recovered() -> None:
    noisy = RATINGS + 0.05 * np.random.default_rng(1).normal(size=RATINGS.shape).astype(np.float32)
    ridges = fit_ridges(STATES, noisy, RATED, strength=1e-3)
    assert ridges.weight == pytest.approx(PLANTED, abs=0.02)
    assert ridges.bias == pytest.approx(OFFSETS, abs=0.02)
    assert ridges.rate(STATES) == pytest.approx(RATINGS, abs=0.1)


def test_a_missing_rating_is_left_out_of_its_own_objective_only() -> None:
    masked = RATINGS.copy()
    masked[:300, 0] = np.nan
    masked[350:, 2] = np.nan
    ridges = fit_ridges(STATES, masked, RATED, strength=1e-3)
    assert ridges.rows == (100, 400, 350)
    assert ridges.weight == pytest.approx(PLANTED, abs=0.01)
    alone = fit_ridges(STATES[300:], RATINGS[300:, :1], RATED[:1], strength=1e-3)
    assert ridges.weight[0] == pytest.approx(alone.weight[0], abs=1e-6)


def test_strength_shrinks_the_weights() -> None:
    weak, strong = (fit_ridges(STATES, RATINGS, RATED, strength) for strength in (0.01, 1000.0))
    assert np.linalg.norm(strong.weight) < 0.5 * np.linalg.norm(weak.weight)


def test_an_objective_with_hardly_any_ratings_is_refused_by_name() -> None:
    masked = RATINGS.copy()
    masked[1:, 1] = np.nan
    with pytest.raises(ConfigError, match="objective 'b' has 1 ratings"):
        fit_ridges(STATES, masked, RATED)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ratings are \(399, 3\)"):
        fit_ridges(STATES, RATINGS[1:], RATED)
    with pytest.raises(ConfigError, match="a hidden state holds NaN"):
        fit_ridges(np.full_like(STATES, np.nan), RATINGS, RATED)


NAMES = ("up", "down", "free", "length")


def biased(seed: int, count: int = 800, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Ratings that grow, fall and do not change with the length, and one that tells it but roughly."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(4, 1, count)).round()
    log = np.log1p(lengths)
    noise = rng.normal(size=(4, count))
    ratings = [noise[0] + strength * log, 0.1 * noise[1] - 0.2 * strength * log, noise[2], log + 0.3 * noise[3]]
    return np.stack(ratings, axis=1).astype(np.float32), lengths


@given(seed=st.integers(0, 10_000), strength=st.floats(0.05, 3.0))
@settings(max_examples=15)
def test_no_objective_keeps_a_correlation_with_the_length(seed: int, strength: float) -> None:
    ratings, lengths = biased(seed, strength=strength)
    debiased = debias(ratings, lengths.tolist(), by=3, objectives=NAMES)
    changed = ratings @ debiased.transform
    for place in range(3):
        reached = spearmanr(changed[:, place], lengths).statistic
        assert abs(reached) <= BAR
        assert debiased.after[place] == pytest.approx(reached, abs=2e-3)
        assert debiased.before[place] == pytest.approx(spearmanr(ratings[:, place], lengths).statistic)


def test_what_was_not_length_is_kept() -> None:
    ratings, lengths = biased(0)
    debiased = debias(ratings, lengths.tolist(), by=3, objectives=NAMES)
    quality = ratings[:, 0] - np.log1p(lengths)
    assert spearman((ratings @ debiased.transform)[:, 0], quality) > 0.9
    assert spearman(ratings[:, 0], quality) < 0.8
    assert debiased.before[0] > 0.6
    assert debiased.before[1] < -0.6
    assert debiased.kept[2] > 0.999


def test_only_the_row_of_the_length_is_changed_and_its_own_column_is_zero() -> None:
    ratings, lengths = biased(1)
    transform = debias(ratings, lengths.tolist(), by=3, objectives=NAMES).transform
    assert (transform[:3, :3] == np.eye(3)).all()
    assert (transform[:, 3] == 0).all()
    assert transform[3, 0] < 0 < transform[3, 1]


def test_an_objective_that_is_constant_is_left_alone() -> None:
    ratings, lengths = biased(2)
    ratings[:, 2] = 3.0
    debiased = debias(ratings, lengths.tolist(), by=3, objectives=NAMES)
    assert debiased.penalties[2] == 0.0
    assert debiased.before[2] == 0.0


def test_a_length_that_the_ratings_do_not_tell_is_an_error_by_name() -> None:
    ratings, lengths = biased(3)
    ratings[:, 3] = 1.0
    with pytest.raises(ConfigError, match=r"up: its correlation with the length stays \+0\.\d+, above 0\.03"):
        debias(ratings, lengths.tolist(), by=3, objectives=NAMES)


def test_a_rating_of_few_values_that_cannot_reach_the_bar_is_an_error() -> None:
    lengths = np.array([1.0, 2.0, 3.0])
    ratings = np.array([[0, 1], [1, 2], [3.3, 4]], dtype=np.float32)  # the correlation jumps from 1/2 to -1/2
    with pytest.raises(ConfigError, match="correlation with the length stays"):
        debias(ratings, lengths.tolist(), by=1, objectives=("few", "length"))


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-9, 9)), min_size=3, max_size=40))
def test_spearman_is_that_of_scipy_ties_included(pairs: list[tuple[int, float]]) -> None:
    left, right = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if len(set(left)) > 1 and len(set(right)) > 1:
        assert spearman(left, right) == pytest.approx(spearmanr(left, right).statistic, abs=1e-9)
    else:
        assert spearman(left, right) == 0.0


SHORT = GateRecipe(hidden=(16,), steps=150, batch_size=256, learning_rate=0.02)
Arrays = np.ndarray


def clustered(count: int = 600, seed: int = 0) -> tuple[Arrays, Arrays, Arrays]:
    """Prompts of three clusters, pairs that the margin on the cluster's own objective decides, and the clusters."""
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 3, count)
    prompts = rng.normal(size=(count, 5)) + 4 * np.eye(5)[clusters]
    margins = rng.normal(size=(count, 3))
    own = np.arange(count), clusters
    margins[own] = np.abs(margins[own])
    return prompts.astype(np.float32), margins.astype(np.float32), clusters


def same(left: TrainedGate, right: TrainedGate) -> bool:
    pairs = zip(left.gate.layers, right.gate.layers, strict=True)
    equal = all((a == b).all() for one, other in pairs for a, b in zip(one, other, strict=True))
    return equal and (left.loss, left.gate.scale) == (right.loss, right.gate.scale)


@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_the_gate_learns_which_objective_matters_for_which_prompts(hidden: tuple[int, ...]) -> None:
    prompts, margins, _ = clustered()
    trained = train_gate(prompts, margins, replace(SHORT, hidden=hidden))
    unseen, pairs, clusters = clustered(300, seed=1)
    weights = trained.gate.weigh(unseen)
    assert (weights.argmax(axis=1) == clusters).mean() > 0.95
    ranked = ((weights * pairs).sum(axis=1) > 0).mean()
    uniform = (pairs.mean(axis=1) > 0).mean()
    assert ranked > uniform + 0.1
    assert trained.accuracy > 0.9
    assert trained.loss < math.log(2) / 2


def test_weights_are_shares_times_the_learned_scale() -> None:
    prompts, margins, _ = clustered()
    gate = train_gate(prompts, margins, SHORT).gate
    weights = gate.weigh(prompts)
    assert (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(np.full(len(prompts), gate.scale), rel=1e-5)
    assert gate.scale > 1.5  # margins this clear deserve more than the first guess


def test_a_higher_temperature_spreads_the_weights() -> None:
    prompts, margins, _ = clustered()
    gate = train_gate(prompts, margins, SHORT).gate
    assert replace(gate, temperature=10.0).weigh(prompts).std() < 0.5 * gate.weigh(prompts).std()


def test_prompts_far_from_zero_are_learned_as_well() -> None:
    prompts, margins, clusters = clustered()
    far = (1000 + 50 * prompts).astype(np.float32)
    far = np.hstack([far, np.full((len(far), 1), 7.0, dtype=np.float32)])  # one number never changes
    weights = train_gate(far, margins, SHORT).gate.weigh(far)
    assert (weights.argmax(axis=1) == clusters).mean() > 0.95


def test_equal_seeds_give_equal_gates_whatever_was_drawn_before() -> None:
    prompts, margins, _ = clustered()
    recipe = replace(SHORT, steps=20)
    first = train_gate(prompts, margins, recipe)
    before = torch.random.get_rng_state()
    torch.rand(5)
    drawn = torch.random.get_rng_state()
    assert same(first, train_gate(prompts, margins, recipe))
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert not same(first, train_gate(prompts, margins, replace(recipe, seed=1)))
    torch.random.set_rng_state(before)


def test_no_pairs_or_odd_ones_are_refused() -> None:
    prompts, margins, _ = clustered(10)
    with pytest.raises(ConfigError, match="0 prompts and 0 pairs"):
        train_gate(prompts[:0], margins[:0], SHORT)
    with pytest.raises(ConfigError, match="10 prompts and 9 pairs"):
        train_gate(prompts, margins[1:], SHORT)
    with pytest.raises(ConfigError, match="holds NaN"):
        train_gate(prompts, margins * np.nan, SHORT)


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
