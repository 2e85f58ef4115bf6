"""Making a small gate for a pool: ask its experts, rate what they wrote, fit, and write the gate with its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from symmoe.build import Assembly
from symmoe.build_gate import backbone_states
from symmoe.config import Pool
from symmoe.evaluation.gating.contest import contest
from symmoe.evaluation.gating.field import Field
from symmoe.evaluation.gating.fitting import FitRecipe, Fitted, fit
from symmoe.evaluation.gating.material import Material, material
from symmoe.evaluation.gating.outputs import Drawing, gather
from symmoe.gating.artefact import save_heads
from symmoe.pipeline import Watch
from symmoe.types import Question, Verdict

OUTPUTS = "outputs.jsonl"


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
        known = material(asked, backbone_states(backbone, pool.root))
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
        "choosing_unseen": contest(asked, {"gate": unseen(asked, known, fitted)}, training.recipe.seed)["ways"],
    }
    return save_heads(fitted.heads, out, about)


def unseen(asked: Field, known: Material, fitted: Fitted) -> list[list[Verdict]]:
    """Verdicts on the very candidates of the fit, each by heads that had not seen its question."""
    rows = []
    for places, candidates, recruitment in zip(known.of, asked.candidates, asked.recruitments, strict=True):
        scores = [None if place < 0 else float(fitted.scores[place]) for place in places]
        weights = fitted.mixture.weigh(scores, [recruitment.shares.get(c.expert, 0.0) for c in candidates])
        rows.append([Verdict(c.expert, c.slot, w) for c, w in zip(candidates, weights, strict=True)])
    return rows


def _ranked(fitted: Fitted) -> dict[str, float]:
    return {f"{strength:g}": round(share, 4) for strength, share in fitted.ranked.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
