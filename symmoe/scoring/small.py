"""A small scorer of one's own: ridge heads, debiased for length, and a gate trained on preferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from symmoe.errors import CheckpointError, ConfigError
from symmoe.scoring.debiasing import BAR, debias, length_penalty, spearman
from symmoe.scoring.heads import Floats, Heads
from symmoe.scoring.preference import GateRecipe, train_gate
from symmoe.scoring.ridge import fit_ridges
from symmoe.scoring.states import HiddenStates
from symmoe.types import Query, Reward

LENGTH = "length"
"""The objective that the fit adds: the logarithm of an answer's length, read off its state."""


@dataclass(frozen=True, slots=True, eq=False)
class RatedAnswers:
    """Answers with ratings `[n, objectives]` (NaN where there is none) and lengths `[n]`, in whatever unit.

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
    """How a fit went: ratings per objective, Spearman correlations on the rated answers, and how the gate ranks.

    Correlations are with the length `before` and `after` debiasing, "score" being the final score, and of each
    objective with what debiasing left of it (`kept`). `loss` is the gate's when trained; `accuracy` is the share of the
    pairs that the final score ranks right.
    """

    rated: Mapping[str, int]
    before: Mapping[str, float]
    after: Mapping[str, float]
    kept: Mapping[str, float]
    pairs: int
    loss: float
    accuracy: float


class SmallScorer:
    """A reward model of heads and whatever gives the hidden states."""

    def __init__(self, heads: Heads, states: HiddenStates) -> None:
        self._heads, self._states = heads, states

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order; one that cannot be judged has the score None.

        Raises `CheckpointError` if the states are not of the size that the heads were fitted on.
        """
        shown = [[text for text in row if text.strip()] for row in candidates]
        given = iter(self._read(queries, shown) if any(shown) else ())
        return [
            [next(given) if text.strip() else Reward(None, note="empty answer") for text in row] for row in candidates
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
    bar: float = BAR,
) -> tuple[Heads, GateFit]:
    """Fit ridge heads, take the length out of them, train the gate, and take the length out of the score.

    Objectives are scaled so that all vary alike on the rated answers: the gate's weights then compare. `strength` is
    the ridge penalty, `bar` the largest correlation with the length that may remain. Raises `ConfigError`.
    """
    if LENGTH in objectives:
        raise ConfigError(f"an objective is called {LENGTH!r}, which names what is taken out", hint="rename it")
    names = (*objectives, LENGTH)
    told = np.log1p(rated.lengths)[:, None]
    ridges = fit_ridges(rated.answers, np.hstack([rated.ratings, told]).astype(np.float32), names, strength)
    ratings = ridges.rate(rated.answers)
    debiased = debias(ratings, rated.lengths.tolist(), len(objectives), names, bar)
    spread = (ratings @ debiased.transform).std(axis=0)
    transform = (debiased.transform / np.where(spread > 0, spread, 1.0)).astype(np.float32)
    margins = (ridges.rate(preferred.chosen) - ridges.rate(preferred.rejected)) @ transform
    trained = train_gate(preferred.prompts, margins, recipe or GateRecipe())
    centre, none = ratings.mean(axis=0), np.zeros(len(names), dtype=np.float32)
    heads = Heads(names, ridges.weight, ridges.bias, transform, centre, none, trained.gate)
    heads, before, after = _without_length(heads, rated, bar)
    return heads, GateFit(
        dict(zip(names, ridges.rows, strict=True)),
        dict(zip(names, debiased.before, strict=True)) | {"score": before},
        dict(zip(names, debiased.after, strict=True)) | {"score": after},
        dict(zip(names, debiased.kept, strict=True)),
        len(margins),
        trained.loss,
        _ranked_right(heads, preferred),
    )


def _without_length(heads: Heads, rated: RatedAnswers, bar: float) -> tuple[Heads, float, float]:
    """Debiased objectives can add up to a biased score: the gate may favour one where answers are long."""
    ratings, weights = heads.rate(rated.answers), heads.gate.weigh(rated.prompts)
    scores, lengths = heads.score(ratings, weights).astype(np.float64), rated.lengths.astype(np.float64)
    penalty = heads.penalty.copy()
    penalty[-1] = length_penalty(scores, ratings[:, -1].astype(np.float64), lengths, "the score", bar)
    heads = replace(heads, penalty=penalty)
    return heads, spearman(scores, lengths), spearman(heads.score(ratings, weights), lengths)


def _ranked_right(heads: Heads, preferred: PreferredAnswers) -> float:
    weights = heads.gate.weigh(preferred.prompts)
    chosen, rejected = (heads.score(heads.rate(states), weights) for states in (preferred.chosen, preferred.rejected))
    return float((chosen > rejected).mean())
