"""Ratings of what experts wrote, made from the known answers and from what the experts wrote beside each other.

No person and no larger model rates anything. What cannot be told of an answer is NaN, and the fit skips it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from symmoe.aggregation.equivalence import equal
from symmoe.aggregation.extraction import extract
from symmoe.evaluation.scoring import is_right
from symmoe.gating.heads import Floats
from symmoe.routing.facets import SUSPECT_WORDS, language_of
from symmoe.types import Candidate, Question

OBJECTIVES = ("correctness", "format", "brevity", "agreement", "stability", "language")
"""What is rated, in the order of the columns; see `rate`."""
_TOKEN = re.compile(r"\d+|[^\W\d_]+|\S")


def rate(question: Question, candidates: Sequence[Candidate]) -> Floats:
    """Ratings `[n, objectives]` of all answers to one question, each between 0 and 1.

    `correctness`: the answer is right. `format`: how alike are the kinds of tokens in it and in the known answer.
    `brevity`: the known answer's length over its own, at most 1. `agreement`: the share of the other experts whose
    first answer says the same. `stability`: the share of the same expert's other draws that do. `language`: it is in
    the known answer's language, told only of texts of some length.
    """
    said = [extract(candidate.text, "auto", question.question) for candidate in candidates]
    rows = [
        (
            float(is_right(candidate.text, question)),
            format_likeness(candidate.text, question.answer),
            min(1.0, len(question.answer) / max(len(candidate.text), 1)),
            _share(said[place], [s for s, c in zip(said, candidates, strict=True) if _other(c, candidate)]),
            _share(said[place], [s for s, c in zip(said, candidates, strict=True) if _redrawn(c, candidate)]),
            _same_language(candidate.text, question.answer),
        )
        for place, candidate in enumerate(candidates)
    ]
    return np.array(rows, dtype=np.float32).reshape(len(candidates), len(OBJECTIVES))


def format_likeness(text: str, wanted: str) -> float:
    """How alike the kinds of tokens in two texts are (Jaccard): JSON, numbers, words by their case, each mark.

    >>> format_likeness("3, 1, 2", "1, 2, 3"), format_likeness("It is 3", "3")
    (1.0, 0.3333333333333333)
    """
    first, second = _kinds(text), _kinds(wanted)
    return len(first & second) / len(first | second) if first | second else 1.0


def _kinds(text: str) -> set[str]:
    try:
        if isinstance(json.loads(text), dict | list):
            return {"json"}
    except (ValueError, RecursionError):
        pass
    return {_kind(token) for token in _TOKEN.findall(text)}


def _kind(token: str) -> str:
    if token.isdecimal():
        return "number"
    if not token[0].isalpha():
        return token
    return "upper" if token.isupper() else "capitalised" if token[0].isupper() else "lower"


def _other(candidate: Candidate, than: Candidate) -> bool:
    return candidate.expert != than.expert and candidate.slot == 0


def _redrawn(candidate: Candidate, of: Candidate) -> bool:
    return candidate.expert == of.expert and candidate.slot != of.slot


def _share(said: str | None, others: Sequence[str | None]) -> float:
    """The share of `others` that say the same; an answer that cannot be read agrees with none."""
    if not others:
        return float("nan")
    return sum(said is not None and other is not None and equal(said, other, "auto") for other in others) / len(others)


def _same_language(text: str, wanted: str) -> float:
    if min(len(text.split()), len(wanted.split())) < SUSPECT_WORDS:
        return float("nan")
    return float(language_of(text) == language_of(wanted))
