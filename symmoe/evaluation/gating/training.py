"""Making a small gate for a pool: ask its experts, rate what they wrote, fit, and write the gate with its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from symmoe.build import Assembly
from symmoe.build_gate import backbone_states
from symmoe.config import Pool
from symmoe.evaluation.gating.contest import contest
from symmoe.evaluation.gating.field import Field, assignment_of
from symmoe.evaluation.gating.fitting import FitRecipe, Fitted, fit
from symmoe.evaluation.gating.material import Material, material
from symmoe.evaluation.gating.outputs import Drawing, gather
from symmoe.evaluation.gating.reading import KeptStates
from symmoe.evaluation.gating.settings import cut
from symmoe.gating.artefact import save_heads
from symmoe.pipeline import Watch
from symmoe.types import Question, Verdict

OUTPUTS, STATES = "outputs.jsonl", "states"


@dataclass(frozen=True, slots=True)
class Training:
    """What decides a small gate: the backbones to choose from, how experts are asked, and the fit."""

    backbones: tuple[str, ...]
    drawing: Drawing = field(default_factory=Drawing)
    recipe: FitRecipe = field(default_factory=FitRecipe)


def gathered_field(
    assembly: Assembly,
    questions: Sequence[Question],
    training: Training,
    out: Path,
    watch: Watch = Watch(),  # noqa: B008  (frozen)
) -> Field:
    """What the experts write, kept in `out` as it comes: run again after an interruption, only the rest is asked."""
    return gather(assembly, questions, training.drawing, out / OUTPUTS, watch)


def make(
    pool: Pool,
    asked: Field,
    source: str,
    training: Training,
    out: Path,
    told: Callable[[str], None] = lambda now: None,
) -> dict[str, Any]:
    """Fit a small gate, write it into `out`, and give its card. `source` says in the card which questions these are.

    Raises `ConfigError` where nothing can be learnt from what was written.
    """
    fits: dict[str, tuple[Material, Fitted]] = {}
    for backbone in training.backbones:
        told(f"reading with {backbone}")
        known = material(asked, KeptStates(backbone_states(backbone, pool.root), out / STATES, backbone, told))
        fits[backbone] = known, fit(asked, known, training.recipe, told)
    best = max(fits, key=lambda backbone: max(fits[backbone][1].ranked.values()))
    known, fitted = fits[best]
    about = {
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
        "ranked_right_unseen": {name: _ranked(each) for name, (_, each) in fits.items()},
        "choosing_unseen": _choosing(asked, known, fitted, training.recipe.seed),
    }
    return save_heads(fitted.heads, out, about)


def unseen(asked: Field, known: Material, fitted: Fitted, evidence: float | None = None) -> list[list[Verdict]]:
    """Verdicts on candidates of the fit, each by heads that had not seen its question.

    `evidence` replaces the exponent of the mixture.
    """
    mixture = fitted.mixture if evidence is None else replace(fitted.mixture, evidence=evidence)
    rows = []
    for candidates, recruitment in zip(asked.candidates, asked.recruitments, strict=True):
        places = [known.of.get(assignment_of(c)) for c in candidates]
        scores = [None if place is None else float(fitted.scores[place]) for place in places]
        weights = mixture.weigh(scores, [recruitment.shares.get(c.expert, 0.0) for c in candidates])
        rows.append([Verdict(c.expert, c.slot, w) for c, w in zip(candidates, weights, strict=True)])
    return rows


def _choosing(asked: Field, known: Material, fitted: Fitted, seed: int) -> dict[str, Any]:
    """What gates that had not seen the questions are worth, setting by setting."""
    gates = {
        name: {"gate": unseen(each, known, fitted), "reward_alone": unseen(each, known, fitted, 0.0)}
        for name, each in cut(asked).items()
    }
    return {name: contest(each, gates[name], seed)["ways"] for name, each in cut(asked).items()}


def _ranked(fitted: Fitted) -> dict[str, float]:
    return {f"{strength:g}": round(share, 4) for strength, share in fitted.ranked.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
