"""The options that a question lists, and what an answer among so many is worth."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

OPEN = 50
"""As how many options a question counts that lists none."""
_OPTIONS = [re.compile(rf"(?:^|\s)\(?{letter}[).:]\s") for letter in "ABCDEFGHIJ"]
_CLOSE = 1e-4
_BOXED = re.compile(r"\\boxed\s*+\{")


def options_listed(question: str) -> int:
    """How many options (A), (B), … a question lists, one after the other; 0 where it does not list two or more."""
    return len(_marks(question))


def options_in(question: str) -> tuple[str, tuple[str, ...]]:
    """What a question asks, without its options, and these, in the order of their letters; none if it lists none."""
    marks = _marks(question)
    if not marks:
        return question, ()
    ends = [*(start for start, _ in marks[1:]), len(question)]
    return question[: marks[0][0]], tuple(
        question[start:end].strip() for (_, start), end in zip(marks, ends, strict=True)
    )


@lru_cache(16)
def _marks(question: str) -> Sequence[tuple[int, int]]:
    """From where to where each option's letter stands; none where there are not two or more."""
    marks: list[tuple[int, int]] = []
    if "A)" not in question and "A." not in question and "A:" not in question:
        return marks
    for option in _OPTIONS:
        found = option.search(question, marks[-1][1] - 1 if marks else 0)
        if found is None:
            break
        marks.append(found.span())
    return marks if len(marks) > 1 else []


def options_of(question: str) -> int:
    """How many answers a question could have: those that it lists, or `OPEN`."""
    return options_listed(question) or OPEN


def support(accuracy: float, options: int) -> float:
    """What an answer gains by an expert of this accuracy, 0 for one that does no better than chance."""
    p = _CLOSE if accuracy < _CLOSE else 1 - _CLOSE if accuracy > 1 - _CLOSE else accuracy
    odds = p * (options - 1) / (1 - p)
    return math.log(odds) if odds > 1 else 0.0


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{…}` holds, its braces balanced; None if there is none or it never closes."""
    openings = list(_BOXED.finditer(text))
    if not openings:
        return None
    start = openings[-1].end()
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position].strip()
    return None
