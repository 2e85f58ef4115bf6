"""From rated answers to a small gate: heads, and how their scores are weighed against the experts' records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import ConfigError
from symmoe.evaluation.gating.field import Field, assignment_of
from symmoe.evaluation.gating.material import Material
from symmoe.evaluation.gating.settings import cut
from symmoe.gating.heads import Heads
from symmoe.gating.mixing import Judged, Mixture, fit_mixture
from symmoe.gating.preference import GateRecipe
from symmoe.gating.small import GateFit, fit_heads

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """Everything that decides a fit but its data.

    `strengths` are the ridge penalties to choose from, `pairs` the most pairs of answers from one question, `folds` the
    parts into which questions are divided where a score must come from a gate that has not seen the question.
    """

    strengths: tuple[float, ...] = (1.0, 10.0, 100.0)
    gate: GateRecipe = field(default_factory=lambda: GateRecipe(steps=300))
    pairs: int = 16
    folds: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A gate: its heads, the mixture, the penalty that was chosen, and how the final fit went.

    `scores` `[n]` are what gates that had not seen a question made of its answers; `ranked` is the share of pairs that
    each penalty ranked right in this way.
    """

    heads: Heads
    mixture: Mixture
    strength: float
    report: GateFit
    scores: NDArray[np.float64]
    ranked: dict[float, float]


def fit(asked: Field, known: Material, recipe: FitRecipe, told: Callable[[str], None] = lambda now: None) -> Fitted:
    """Choose the ridge penalty and fit the mixture by cross-fitting over questions, then fit the heads on all.

    The mixture is one for all settings that the field's candidates can be cut into.

    Raises `ConfigError` where the answers tell nothing, such as when all are right.
    """
    if not known.right.any() or known.right.all():
        raise ConfigError(
            "every answer is wrong or every answer is right: nothing tells a good one",
            hint="ask more questions, or more experts",
        )
    held_out: dict[float, NDArray[np.float64]] = {}
    for strength in recipe.strengths:
        told(f"cross-fitting, penalty {strength:g}")
        held_out[strength] = _cross_fitted(known, recipe, strength)
    ranked = {strength: _ranked(known, scores) for strength, scores in held_out.items()}
    best = max(ranked, key=lambda strength: ranked[strength])
    settings = cut(asked).values()
    mixture = fit_mixture([each for setting in settings for each in judged(setting, known, held_out[best])])
    told("the final fit")
    heads, report = _heads(known, np.ones(known.asked, dtype=np.bool_), recipe, best)
    return Fitted(heads, mixture, best, report, held_out[best], ranked)


def judged(asked: Field, known: Material, scores: NDArray[np.float64]) -> list[Judged]:
    """Scores `[n]` of distinct answers, as each question's candidates have them."""
    rows = []
    for candidates, recruitment in zip(asked.candidates, asked.recruitments, strict=True):
        told = [(known.of.get(assignment_of(c)), recruitment.shares.get(c.expert, 0.0)) for c in candidates]
        read = [(place, share) for place, share in told if place is not None]
        at = np.array([place for place, _ in read], dtype=np.intp)
        rows.append(Judged(scores[at], np.array([share for _, share in read]), known.right[at]))
    return rows


def _cross_fitted(known: Material, recipe: FitRecipe, strength: float) -> NDArray[np.float64]:
    """What heads that had not seen an answer's question score it, `[n]`."""
    scores = np.full(len(known.right), np.nan)
    fold = np.arange(known.asked) % recipe.folds
    for number in range(recipe.folds):
        heads, _ = _heads(known, fold != number, recipe, strength)
        unseen = known.within(fold == number)
        taken = known.take(unseen)
        scores[unseen] = heads.score(heads.rate(taken.answers), heads.gate.weigh(taken.prompts))
    return scores


def _heads(known: Material, questions: Bools, recipe: FitRecipe, strength: float) -> tuple[Heads, GateFit]:
    pairs = known.pairs(questions, recipe.pairs, recipe.seed)
    gate = replace(recipe.gate, seed=recipe.seed)
    return fit_heads(known.take(known.within(questions)), pairs, known.objectives, gate, strength)


def _ranked(known: Material, scores: NDArray[np.float64]) -> float:
    """The mean share, over questions, of pairs of a right and a wrong answer in which the right one scores higher."""
    shares = []
    for place in range(known.asked):
        own = known.question == place
        better, worse = scores[own & known.right], scores[own & ~known.right]
        if len(better) and len(worse):
            shares.append(float((better[:, None] > worse[None, :]).mean()))
    return float(np.mean(shares)) if shares else 0.0
