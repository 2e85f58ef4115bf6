"""Whether two answers say the same."""

from __future__ import annotations

import re
from functools import lru_cache

from symmoe.types import AnswerKind

_MATHEMATICAL = re.compile(r"[\\^_{}=+*/]|\d")
_LONGEST = 300
_POWER = r"(?:\^|\*\*)\s*"
# powers of powers, large exponents, factorials, sums: a few characters that no machine can work out
_ENDLESS = re.compile(
    rf"{_POWER}[{{(]?-?\d+\s*[)}}]?\s*{_POWER}"
    rf"|{_POWER}[{{(][^{{}}()]*(?:\^|\*\*)"
    rf"|(?:\^|\*\*).*[)}}]\s*{_POWER}"
    rf"|{_POWER}-?\d{{4}}"
    rf"|{_POWER}[{{(][^{{}}()]*(?:\d[^{{}}()]*){{4}}"
    r"|!|\\(?:binom|sum|prod|int)"
)


def equal(first: str, second: str, kind: AnswerKind) -> bool:
    """Equal as strings, or, for answers that look like mathematics, equal in value by math-verify.

    What is too long to be an answer, or could take for ever to work out, is compared as it is written.
    """
    if first == second:
        return True
    if kind != "math" or not (_computable(first) and _computable(second)):
        return False
    return _equal_in_value(first, second)


def _computable(text: str) -> bool:
    return len(text) <= _LONGEST and bool(_MATHEMATICAL.search(text)) and not _ENDLESS.search(_digits_joined(text))


def _digits_joined(text: str) -> str:
    return re.sub(r"(?<=\d)[,\s]+(?=\d)", "", text)


@lru_cache(maxsize=4096)
def _equal_in_value(first: str, second: str) -> bool:
    from math_verify import parse, verify

    # its own time limit works by signals, which only a process's main thread may set
    said, wanted = (parse(f"${text}$", parsing_timeout=None) for text in (first, second))
    return bool(verify(said, wanted, timeout_seconds=None))
