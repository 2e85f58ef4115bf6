"""Whether two answers say the same."""

from __future__ import annotations

import re
from functools import lru_cache

from symmoe.types import AnswerKind

_MATHEMATICAL = re.compile(r"[\\^_{}=+*/]|\d")


def equal(first: str, second: str, kind: AnswerKind) -> bool:
    """Equal as strings, or, for answers that look like mathematics, equal in value by math-verify."""
    if first == second:
        return True
    if kind != "math" or not (_MATHEMATICAL.search(first) and _MATHEMATICAL.search(second)):
        return False
    return _equal_in_value(first, second)


@lru_cache(maxsize=4096)
def _equal_in_value(first: str, second: str) -> bool:
    from math_verify import parse, verify

    # its own time limit works by signals, which only a process's main thread may set
    said, wanted = (parse(f"${text}$", parsing_timeout=None) for text in (first, second))
    return bool(verify(said, wanted, timeout_seconds=None))
