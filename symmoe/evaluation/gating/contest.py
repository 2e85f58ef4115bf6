"""What a gate is worth: several ways of choosing among the very same candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.vote import WeightedVote
from symmoe.evaluation.gating.field import Field
from symmoe.evaluation.quality.bootstrap import paired
from symmoe.evaluation.scoring import is_right
from symmoe.gating.evidence import EvidenceGate, is_answer, weigh
from symmoe.protocols import Gate, RewardModel
from symmoe.types import Message, Query, Reward, Verdict

Floats = NDArray[np.float64]
Verdicts = Sequence[Sequence[Verdict]]


def contest(field: Field, gates: Mapping[str, Verdicts], seed: int) -> dict[str, Any]:
    """Accuracy of each way of choosing, and what the others are over plain and profile-weighted votes, in points.

    `gates` names verdicts on the field's candidates. Plain and profile-weighted votes, and the oracle (at least one
    candidate is right), stand beside them. Intervals are paired bootstraps over questions.
    """
    ways = {"plain_vote": plain(field), "profile_vote": weigh(EvidenceGate(), *_sides(field)), **gates}
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


class Remembering:
    """A reward model that reads every answer to a question once, however often it is asked."""

    def __init__(self, model: RewardModel) -> None:
        self._model = model
        self._known: dict[tuple[tuple[Message, ...], str], Reward] = {}

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order."""
        rows = list(zip(queries, candidates, strict=True))
        new = [list(dict.fromkeys(t for t in row if (query.messages, t) not in self._known)) for query, row in rows]
        for query, texts, rewards in zip(queries, new, self._model.score(queries, new), strict=True):
            self._known |= {(query.messages, text): reward for text, reward in zip(texts, rewards, strict=True)}
        return [[self._known[query.messages, text] for text in row] for query, row in rows]


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
