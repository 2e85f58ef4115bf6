"""What a gate is worth: several ways of choosing among the very same candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.vote import WeightedVote
from symmoe.evaluation.gating.field import Field
from symmoe.evaluation.quality.bootstrap import paired
from symmoe.evaluation.scoring import is_right
from symmoe.gating.evidence import EvidenceGate, is_answer, weigh
from symmoe.gating.mixing import Mixture
from symmoe.protocols import Gate
from symmoe.types import Verdict

Floats = NDArray[np.float64]
Verdicts = Sequence[Sequence[Verdict]]


def contest(field: Field, gates: dict[str, Verdicts], seed: int) -> dict[str, Any]:
    """Accuracy of each way of choosing, and what the others are over plain and profile-weighted votes, in points.

    `gates` names verdicts on the field's candidates. Plain and profile-weighted votes, and the oracle (at least one
    candidate is right), stand beside them. Intervals are paired bootstraps over questions.
    """
    ways = {"plain_vote": plain(field), "profile_vote": weigh(EvidenceGate(), *_sides(field))} | gates
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


def judged(gate: Gate, field: Field) -> list[list[Verdict]]:
    """A gate's verdicts on a field's candidates."""
    return weigh(gate, *_sides(field))


def reweighed(field: Field, verdicts: Verdicts, mixture: Mixture) -> list[list[Verdict]]:
    """The same rewards, weighed in another way."""
    return [
        [
            replace(verdict, weight=weight)
            for verdict, weight in zip(
                row,
                mixture.weigh(
                    [None if v.reward is None else v.reward.score for v in row],
                    [recruitment.shares.get(v.expert, 0.0) for v in row],
                ),
                strict=True,
            )
        ]
        for row, recruitment in zip(verdicts, field.recruitments, strict=True)
    ]


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
