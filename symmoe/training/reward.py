"""Makes a small scorer for a pool: fits it on the experts' answers, measures it, and writes it with its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.vote import WeightedVote
from symmoe.build_scorer import backbone_states
from symmoe.config import Pool
from symmoe.errors import ConfigError
from symmoe.profiles.marking import is_right, paired
from symmoe.protocols import Scorer
from symmoe.scoring.heads import Heads, save_heads
from symmoe.scoring.small import GateFit, GateRecipe, fit_heads
from symmoe.scoring.weighing import Judged, Mixture, RecordScorer, fit_mixture, is_answer, weigh
from symmoe.training.rated import Drawing, Field, KeptStates, Material, cut, material
from symmoe.types import Verdict

Floats = NDArray[np.float64]
Verdicts = Sequence[Sequence[Verdict]]
Bools = NDArray[np.bool_]
OUTPUTS, STATES = "outputs.jsonl", "states"


def contest(field: Field, scorers: Mapping[str, Verdicts], seed: int) -> dict[str, Any]:
    """Accuracy of each way of choosing, and the others' gain over plain and profile-weighted votes, in points.

    `scorers` names verdicts on the field's candidates. Plain and profile-weighted votes, and the oracle (at least one
    candidate is right), are added. Intervals are paired bootstraps over questions.
    """
    ways = {"plain_vote": plain(field), "profile_vote": weigh(RecordScorer(), *_sides(field)), **scorers}
    right = {name: chosen_right(field, verdicts) for name, verdicts in ways.items()}
    right["oracle"] = np.array([float(any(row)) for row in field.right()])
    return {
        "questions": len(field.questions),
        "candidates": sum(map(len, field.candidates)),
        "ways": {
            name: {
                "accuracy": round(float(column.mean()), 4),
                "over_plain_vote": paired(column, right["plain_vote"], seed),
                "over_profile_vote": paired(column, right["profile_vote"], seed),
            }
            for name, column in right.items()
        },
    }


def judged(scorer: Scorer, field: Field) -> list[list[Verdict]]:
    """A scorer's verdicts on a field's candidates."""
    return weigh(scorer, *_sides(field))


def plain(field: Field) -> list[list[Verdict]]:
    """One candidate, one vote."""
    return [[Verdict(c.expert, c.slot, float(is_answer(c))) for c in row] for row in field.candidates]


def chosen_right(field: Field, verdicts: Verdicts) -> Floats:
    """1 for each question whose heaviest answer is right, else 0."""
    vote = WeightedVote()
    rows = zip(field.questions, field.queries, field.candidates, verdicts, strict=True)
    return np.array([float(is_right(vote.aggregate(q, c, v).text, question)) for question, q, c, v in rows])


def _sides(field: Field) -> tuple[Any, Any, Any]:
    return field.queries, field.candidates, field.recruitments


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """Everything that determines a fit besides its data.

    `strengths` are the ridge penalties to choose from, `pairs` the most pairs of answers from one question, `folds` the
    parts into which questions are divided to score each by a scorer that has not seen it.
    """

    strengths: tuple[float, ...] = (1.0, 10.0, 100.0)
    gating: GateRecipe = field(default_factory=lambda: GateRecipe(steps=300))
    pairs: int = 16
    folds: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A scorer: its heads, the mixture, the chosen penalty, and the figures of the final fit.

    `scores` `[n]` are from scorers that had not seen the question; `ranked` is the share of pairs that each penalty
    ranked right in this way.
    """

    heads: Heads
    mixture: Mixture
    strength: float
    report: GateFit
    scores: NDArray[np.float64]
    ranked: dict[float, float]


def fit(asked: Field, known: Material, recipe: FitRecipe, tell: Callable[[str], None] = lambda now: None) -> Fitted:
    """Choose the ridge penalty and fit the mixture by cross-fitting over questions, then fit the heads on all.

    One mixture serves all settings that the field's candidates can be cut into. Raises `ConfigError` if the answers
    tell nothing, such as when all are right.
    """
    if not known.right.any() or known.right.all():
        raise ConfigError(
            "every answer is wrong or every answer is right: nothing tells a good one",
            hint="ask more questions, or more experts",
        )
    held_out: dict[float, NDArray[np.float64]] = {}
    for strength in recipe.strengths:
        tell(f"cross-fitting, penalty {strength:g}")
        held_out[strength] = _cross_fitted(known, recipe, strength)
    ranked = {strength: _ranked(known, scores) for strength, scores in held_out.items()}
    best = max(ranked, key=lambda strength: ranked[strength])
    settings = cut(asked).values()
    mixture = fit_mixture([each for setting in settings for each in as_judged(setting, known, held_out[best])])
    tell("the final fit")
    heads, report = _heads(known, np.ones(known.asked, dtype=np.bool_), recipe, best)
    return Fitted(heads, mixture, best, report, held_out[best], ranked)


def as_judged(asked: Field, known: Material, scores: NDArray[np.float64]) -> list[Judged]:
    """Scores `[n]` of distinct answers, as each question's candidates have them."""
    rows = []
    for candidates, recruitment in zip(asked.candidates, asked.recruitments, strict=True):
        scored = [(known.of.get(c.assignment), recruitment.shares.get(c.expert, 0.0)) for c in candidates]
        read = [(place, share) for place, share in scored if place is not None]
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
    gating = replace(recipe.gating, seed=recipe.seed)
    return fit_heads(known.take(known.within(questions)), pairs, known.objectives, gating, strength)


def _ranked(known: Material, scores: NDArray[np.float64]) -> float:
    """The mean share, over questions, of pairs of a right and a wrong answer in which the right one scores higher."""
    shares = []
    for place in range(known.asked):
        mask = known.question == place
        better, worse = scores[mask & known.right], scores[mask & ~known.right]
        if len(better) and len(worse):
            shares.append(float((better[:, None] > worse[None, :]).mean()))
    return float(np.mean(shares)) if shares else 0.0


@dataclass(frozen=True, slots=True)
class Training:
    """The settings of a small scorer: the backbones to choose from, how experts are asked, and the fit."""

    backbones: tuple[str, ...]
    drawing: Drawing = field(default_factory=Drawing)
    recipe: FitRecipe = field(default_factory=FitRecipe)


def make(
    pool: Pool, asked: Field, source: str, training: Training, out: Path, tell: Callable[[str], None] = lambda now: None
) -> dict[str, Any]:
    """Fit a small scorer, write it into `out`, and return its card, in which `source` names the questions.

    Raises `ConfigError` if nothing can be learnt from the answers.
    """
    fits: dict[str, tuple[Material, Fitted]] = {}
    for backbone in training.backbones:
        tell(f"reading with {backbone}")
        known = material(asked, KeptStates(backbone_states(backbone, pool.root), out / STATES, backbone, tell))
        fits[backbone] = known, fit(asked, known, training.recipe, tell)
    best = max(fits, key=lambda backbone: max(fits[backbone][1].ranked.values()))
    known, fitted = fits[best]
    facts = {
        "pool": pool.name,
        "backbone": best,
        "mixture": asdict(fitted.mixture),
        "questions": len(asked.questions),
        "source": source,
        "answers": len(known.right),
        "right": round(float(known.right.mean()), 4),
        "drawing": asdict(training.drawing),
        "recipe": asdict(training.recipe) | {"strength": fitted.strength},
        "fit": {name: _rounded(value) for name, value in asdict(fitted.report).items()},
        "ranked_right_unseen": {name: _shares(each) for name, (_, each) in fits.items()},
        "choosing_unseen": _choosing(asked, known, fitted, training.recipe.seed),
    }
    return save_heads(fitted.heads, out, facts)


def unseen(asked: Field, known: Material, fitted: Fitted, evidence: float | None = None) -> list[list[Verdict]]:
    """Verdicts on candidates of the fit, each by heads that had not seen its question.

    `evidence` replaces the exponent of the mixture.
    """
    mixture = fitted.mixture if evidence is None else replace(fitted.mixture, evidence=evidence)
    rows = []
    for candidates, recruitment in zip(asked.candidates, asked.recruitments, strict=True):
        places = [known.of.get(c.assignment) for c in candidates]
        scores = [None if place is None else float(fitted.scores[place]) for place in places]
        weights = mixture.weigh(scores, [recruitment.shares.get(c.expert, 0.0) for c in candidates])
        rows.append([Verdict(c.expert, c.slot, w) for c, w in zip(candidates, weights, strict=True)])
    return rows


def _choosing(asked: Field, known: Material, fitted: Fitted, seed: int) -> dict[str, Any]:
    """What scorers that had not seen the questions are worth, setting by setting."""
    scorers = {
        name: {"scorer": unseen(each, known, fitted), "reward_alone": unseen(each, known, fitted, 0.0)}
        for name, each in cut(asked).items()
    }
    return {name: contest(each, scorers[name], seed)["ways"] for name, each in cut(asked).items()}


def _shares(fitted: Fitted) -> dict[str, float]:
    return {f"{strength:g}": round(share, 4) for strength, share in fitted.ranked.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
