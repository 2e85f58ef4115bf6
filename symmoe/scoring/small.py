"""A small reward model trained here: one ridge regression per objective on frozen hidden states, and a gate.

An answer's length is taken out of its ratings; the gate is trained on which of two answers people prefer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError, ConfigError
from symmoe.scoring.heads import Floats, GatingNetwork, Heads
from symmoe.scoring.states import HiddenStates
from symmoe.types import Query, Reward

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Ridges:
    """Fitted regressions: `weight` `[objectives, e]`, `bias` `[objectives]`, and the rows that each was fitted on."""

    weight: Floats
    bias: Floats
    rows: tuple[int, ...]

    def rate(self, states: Floats) -> Floats:
        """States `[n, e]` to ratings `[n, objectives]`."""
        return np.asarray(states @ self.weight.T + self.bias, dtype=np.float32)


def fit_ridges(states: Floats, ratings: Floats, objectives: Sequence[str], strength: float = 1.0) -> Ridges:
    """Regress ratings `[n, objectives]` on states `[n, e]`; a missing rating is NaN, and only its objective skips it.

    `strength` is the ridge penalty (ArmoRM, §2.1). Raises `ConfigError` for an objective with fewer than two ratings.
    """
    from sklearn.linear_model import Ridge

    if ratings.shape != (len(states), len(objectives)):
        raise ConfigError(
            f"ratings are {ratings.shape}; {len(states)} states and {len(objectives)} objectives need both"
        )
    if not np.isfinite(states).all():
        raise ConfigError("a hidden state holds NaN or infinite numbers", hint="leave out what could not be read")
    weight, bias, rows = [], [], []
    for name, column in zip(objectives, ratings.T, strict=True):
        rated = np.isfinite(column)
        if rated.sum() < 2:
            raise ConfigError(
                f"objective {name!r} has {rated.sum()} ratings", hint="rate more answers, or leave it out"
            )
        fitted = Ridge(alpha=strength).fit(states[rated].astype(np.float64), column[rated].astype(np.float64))
        weight.append(fitted.coef_)
        bias.append(fitted.intercept_)
        rows.append(int(rated.sum()))
    return Ridges(np.array(weight, dtype=np.float32), np.array(bias, dtype=np.float32), tuple(rows))


BAR = 0.03
"""The largest Spearman correlation with the length that is let stand (ArmoRM, §2.2)."""
_DOUBLINGS, _HALVINGS = 24, 60
_CLOSE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Debiasing:
    """How each objective was debiased, with its Spearman correlations on the reference answers.

    `transform` `[objectives, objectives]` is applied as rᵀT. `before` and `after` are correlations with the length,
    `kept` those of an objective with its debiased form. The column that was subtracted is left zero.
    """

    transform: Floats
    penalties: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    kept: tuple[float, ...]


def debias(ratings: Floats, lengths: Sequence[float], by: int, objectives: Sequence[str]) -> Debiasing:
    """r'ᵢ = rᵢ − λᵢ·r_by with the λᵢ that leaves r'ᵢ and the length uncorrelated, found by bisection (ArmoRM, §2.2).

    `ratings` `[n, objectives]` are the model's own, of reference answers of those `lengths`; column `by` is the rating
    that follows the length. Raises `ConfigError` for an objective whose correlation cannot be brought to `BAR`.
    """
    measured = np.asarray(lengths, dtype=np.float64)
    by_ratings = ratings[:, by].astype(np.float64)
    transform = np.eye(ratings.shape[1], dtype=np.float32)
    transform[by, by] = 0.0
    rows: list[tuple[float, ...]] = []
    for place, name in enumerate(objectives):
        values = ratings[:, place].astype(np.float64)
        penalty = 1.0 if place == by else length_penalty(values, by_ratings, measured, name)
        if place != by:
            transform[by, place] = -penalty
        left = values - penalty * by_ratings
        rows.append((penalty, *(spearman(x, y) for x, y in ((values, measured), (left, measured), (values, left)))))
    penalties, before, after, kept = zip(*rows, strict=True)
    return Debiasing(transform, penalties, before, after, kept)


def length_penalty(
    values: NDArray[np.float64],
    predicted: NDArray[np.float64],
    lengths: NDArray[np.float64],
    name: str,
) -> float:
    """The λ at which values − λ·predicted and the lengths, all `[n]`, have a Spearman correlation next to zero.

    Raises `ConfigError`, which names what was to be debiased, if none brings it to `BAR`.
    """

    def left(penalty: float) -> float:
        return spearman(values - penalty * predicted, lengths)

    start = left(0.0)
    if abs(start) <= _CLOSE:
        return 0.0
    step = np.sign(start * spearman(predicted, lengths)) * (values.std() / (predicted.std() or 1.0))
    far = next((step * 2.0**n for n in range(_DOUBLINGS) if left(step * 2.0**n) * start <= 0), None)
    found = 0.0 if far is None else _crossing(left, far, start)
    if abs(left(found)) > BAR:
        raise ConfigError(
            f"{name}: its correlation with the length stays {left(found):+.3f}, above {BAR}",
            hint="use more reference answers, or states from which the length can be told",
        )
    return found


def spearman(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Spearman's correlation of two rows of numbers; 0 where one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (left, right)]
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float(ranks[0] @ ranks[1] / scale) if scale else 0.0


def _crossing(left: Any, far: float, start: float) -> float:
    """Where `left` changes its sign between 0, where it is `start`, and `far`."""
    near = 0.0
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        reached = left(middle)
        if abs(reached) <= _CLOSE:
            return middle
        near, far = (middle, far) if reached * start > 0 else (near, middle)
    return min((near, far), key=lambda penalty: abs(left(penalty)))


@dataclass(frozen=True, slots=True)
class GateRecipe:
    """Everything that determines a trained gate. Without `hidden` layers it is linear; ArmoRM has three of 1024."""

    hidden: tuple[int, ...] = (64,)
    temperature: float = 1.0
    steps: int = 500
    batch_size: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainedGate:
    """A gate, its Bradley–Terry loss on its training pairs, and the share of them that it ranks right."""

    gate: GatingNetwork
    loss: float
    accuracy: float


def train_gate(prompts: Floats, margins: Floats, recipe: GateRecipe) -> TrainedGate:
    """Train a gate g to make Σⱼ gⱼ(prompt)·marginⱼ positive: −log σ of it is the loss (Bradley–Terry; ArmoRM, §2.2).

    `prompts` are states `[n, d]`; `margins` `[n, objectives]` are the debiased ratings of the preferred answer minus
    those of the other. Equal recipes and numbers give equal gates. Raises `ConfigError` for no, unequal or NaN pairs.
    """
    import torch

    if not len(prompts) or len(prompts) != len(margins):
        raise ConfigError(f"{len(prompts)} prompts and {len(margins)} pairs make no training set for a gate")
    if not (np.isfinite(prompts).all() and np.isfinite(margins).all()):
        raise ConfigError("a pair holds NaN or infinite numbers", hint="leave out what could not be read")
    mean, spread = prompts.mean(axis=0), prompts.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0).astype(np.float32)
    inputs, targets = torch.tensor((prompts - mean) / spread), torch.tensor(margins, dtype=torch.float32)
    numbers = torch.Generator().manual_seed(recipe.seed)
    layers = _initial((prompts.shape[1], *recipe.hidden, margins.shape[1]), numbers)
    log_scale = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.AdamW(
        [*(part for layer in layers for part in layer), log_scale],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    for _ in range(recipe.steps):
        rows = torch.randperm(len(inputs), generator=numbers)[: recipe.batch_size]
        loss = _loss(_margin(inputs[rows], targets[rows], layers, log_scale, recipe.temperature))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        margin = _margin(inputs, targets, layers, log_scale, recipe.temperature)
    gate = GatingNetwork(_plain(layers, mean, spread), recipe.temperature, float(log_scale.detach().exp()))
    return TrainedGate(gate, float(_loss(margin)), float((margin > 0).float().mean()))


def _initial(widths: Sequence[int], numbers: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    import torch

    return [
        (
            (torch.randn(out, into, generator=numbers) / into**0.5).requires_grad_(),
            torch.zeros(out, requires_grad=True),
        )
        for into, out in pairwise(widths)
    ]


def _margin(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
    log_scale: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    import torch

    signal = inputs
    for place, (weight, bias) in enumerate(layers):
        signal = torch.nn.functional.linear(torch.relu(signal) if place else signal, weight, bias)
    # over the objectives: over the pair, as the published training script has it, a gate learns nothing
    weights = torch.softmax(signal / temperature, dim=-1) * log_scale.exp()
    return (weights * targets).sum(dim=-1)


def _loss(margin: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.softplus(-margin).mean()


def _plain(
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]], mean: Floats, spread: Floats
) -> tuple[tuple[Floats, Floats], ...]:
    """The layers as numbers, the first of them reading states that are not standardised."""
    (weight, bias), *rest = [(w.detach().numpy(), b.detach().numpy()) for w, b in layers]
    weight = weight / spread
    return ((weight, (bias - weight @ mean).astype(np.float32)), *rest)


LENGTH = "length"
"""The objective that the fit adds: the logarithm of an answer's length, read off its state."""


@dataclass(frozen=True, slots=True, eq=False)
class RatedAnswers:
    """Answers with ratings `[n, objectives]` (NaN where missing) and lengths `[n]`, in any unit.

    `prompts` `[n, d]` and `answers` `[n, e]` are hidden states.
    """

    prompts: Floats
    answers: Floats
    ratings: Floats
    lengths: Floats


@dataclass(frozen=True, slots=True, eq=False)
class PreferredAnswers:
    """Pairs of answers to one prompt: hidden states of the prompt `[p, d]`, the preferred and the other, `[p, e]`."""

    prompts: Floats
    chosen: Floats
    rejected: Floats


@dataclass(frozen=True, slots=True)
class GateFit:
    """Figures of a fit: ratings per objective, Spearman correlations on the rated answers, and the gate's ranking.

    Correlations are with the length `before` and `after` debiasing, "score" being the final score, and of each
    objective with its debiased form (`kept`). `loss` is the gate's in training; `accuracy` is the share of pairs that
    the final score ranks right.
    """

    rated: Mapping[str, int]
    before: Mapping[str, float]
    after: Mapping[str, float]
    kept: Mapping[str, float]
    pairs: int
    loss: float
    accuracy: float


class SmallScorer:
    """A reward model made of heads and a source of hidden states."""

    def __init__(self, heads: Heads, states: HiddenStates) -> None:
        self._heads, self._states = heads, states

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order; one that cannot be judged has the score None.

        Raises `CheckpointError` if the states do not have the size that the heads were fitted on.
        """
        shown = [[text for text in row if text.strip()] for row in candidates]
        rewards = iter(self._read(queries, shown) if any(shown) else ())
        return [
            [next(rewards) if text.strip() else Reward(None, note="empty answer") for text in row] for row in candidates
        ]

    def _read(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[Reward]:
        prompts, answers = self._states(queries, candidates)
        rows = sum(map(len, candidates))
        fitting = (rows, self._heads.gate.layers[0][0].shape[1]), (rows, self._heads.weight.shape[1])
        if (prompts.shape, answers.shape) != fitting:
            raise CheckpointError(
                f"hidden states are {prompts.shape} and {answers.shape}; the gate reads {fitting[0]} and {fitting[1]}",
                hint="use the model on whose states the gate was fitted",
            )
        return self._heads.rewards(prompts, answers)


def fit_heads(
    rated: RatedAnswers,
    preferred: PreferredAnswers,
    objectives: Sequence[str],
    recipe: GateRecipe | None = None,
    strength: float = 1.0,
) -> tuple[Heads, GateFit]:
    """Fit ridge heads, remove the length from them, train the gate, and remove the length from the score.

    Objectives are scaled to equal variance on the rated answers, so that the gate's weights are comparable. `strength`
    is the ridge penalty, `BAR` the largest correlation with the length that may remain. Raises `ConfigError`.
    """
    if LENGTH in objectives:
        raise ConfigError(f"an objective is called {LENGTH!r}, which names what is taken out", hint="rename it")
    names = (*objectives, LENGTH)
    log_lengths = np.log1p(rated.lengths)[:, None]
    ridges = fit_ridges(rated.answers, np.hstack([rated.ratings, log_lengths]).astype(np.float32), names, strength)
    ratings = ridges.rate(rated.answers)
    debiased = debias(ratings, rated.lengths.tolist(), len(objectives), names)
    spread = (ratings @ debiased.transform).std(axis=0)
    transform = (debiased.transform / np.where(spread > 0, spread, 1.0)).astype(np.float32)
    margins = (ridges.rate(preferred.chosen) - ridges.rate(preferred.rejected)) @ transform
    trained = train_gate(preferred.prompts, margins, recipe or GateRecipe())
    centre, none = ratings.mean(axis=0), np.zeros(len(names), dtype=np.float32)
    heads = Heads(names, ridges.weight, ridges.bias, transform, centre, none, trained.gate)
    heads, before, after = _without_length(heads, rated)
    return heads, GateFit(
        dict(zip(names, ridges.rows, strict=True)),
        dict(zip(names, debiased.before, strict=True)) | {"score": before},
        dict(zip(names, debiased.after, strict=True)) | {"score": after},
        dict(zip(names, debiased.kept, strict=True)),
        len(margins),
        trained.loss,
        _ranked_right(heads, preferred),
    )


def _without_length(heads: Heads, rated: RatedAnswers) -> tuple[Heads, float, float]:
    """Debiased objectives can add up to a biased score: the gate may favour one where answers are long."""
    ratings, weights = heads.rate(rated.answers), heads.gate.weigh(rated.prompts)
    scores, lengths = heads.score(ratings, weights).astype(np.float64), rated.lengths.astype(np.float64)
    penalty = heads.penalty.copy()
    penalty[-1] = length_penalty(scores, ratings[:, -1].astype(np.float64), lengths, "the score")
    heads = replace(heads, penalty=penalty)
    return heads, spearman(scores, lengths), spearman(heads.score(ratings, weights), lengths)


def _ranked_right(heads: Heads, preferred: PreferredAnswers) -> float:
    weights = heads.gate.weigh(preferred.prompts)
    chosen, rejected = (heads.score(heads.rate(states), weights) for states in (preferred.chosen, preferred.rejected))
    return float((chosen > rejected).mean())
