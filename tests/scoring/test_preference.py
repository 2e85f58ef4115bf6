from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from symmoe.errors import ConfigError
from symmoe.scoring.preference import GateRecipe, TrainedGate, train_gate

RECIPE = GateRecipe(hidden=(16,), steps=150, batch_size=256, learning_rate=0.02)
Floats = np.ndarray


def clustered(count: int = 600, seed: int = 0) -> tuple[Floats, Floats, Floats]:
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
    trained = train_gate(prompts, margins, replace(RECIPE, hidden=hidden))
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
    gate = train_gate(prompts, margins, RECIPE).gate
    weights = gate.weigh(prompts)
    assert (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(np.full(len(prompts), gate.scale), rel=1e-5)
    assert gate.scale > 1.5  # margins this clear deserve more than the first guess


def test_a_higher_temperature_spreads_the_weights() -> None:
    prompts, margins, _ = clustered()
    gate = train_gate(prompts, margins, RECIPE).gate
    assert replace(gate, temperature=10.0).weigh(prompts).std() < 0.5 * gate.weigh(prompts).std()


def test_prompts_far_from_zero_are_learned_as_well() -> None:
    prompts, margins, clusters = clustered()
    far = (1000 + 50 * prompts).astype(np.float32)
    far = np.hstack([far, np.full((len(far), 1), 7.0, dtype=np.float32)])  # one number never changes
    weights = train_gate(far, margins, RECIPE).gate.weigh(far)
    assert (weights.argmax(axis=1) == clusters).mean() > 0.95


def test_equal_seeds_give_equal_gates_whatever_was_drawn_before() -> None:
    prompts, margins, _ = clustered()
    recipe = replace(RECIPE, steps=20)
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
        train_gate(prompts[:0], margins[:0], RECIPE)
    with pytest.raises(ConfigError, match="10 prompts and 9 pairs"):
        train_gate(prompts, margins[1:], RECIPE)
    with pytest.raises(ConfigError, match="holds NaN"):
        train_gate(prompts, margins * np.nan, RECIPE)
