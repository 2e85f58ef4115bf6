"""The options that a question lists, and what an answer among so many is worth."""

from __future__ import annotations

import math
import re

OPEN = 50
"""As how many options a question counts that lists none."""
_OPTIONS = [re.compile(rf"(?:^|\s)\(?{letter}[).:]\s") for letter in "ABCDEFGHIJ"]
_CLOSE = 1e-4


def options_listed(question: str) -> int:
    """How many options (A), (B), … a question lists, one after the other; 0 where it does not list two or more."""
    count = place = 0
    for option in _OPTIONS:
        found = option.search(question, place)
        if found is None:
            break
        count, place = count + 1, found.end() - 1
    return count if count > 1 else 0


def options_of(question: str) -> int:
    """How many answers a question could have: those that it lists, or `OPEN`."""
    return options_listed(question) or OPEN


def support(accuracy: float, options: int) -> float:
    """What an answer gains by an expert of this accuracy, 0 for one that does no better than chance."""
    p = min(max(accuracy, _CLOSE), 1 - _CLOSE)
    return max(0.0, math.log(p * (options - 1) / (1 - p)))
