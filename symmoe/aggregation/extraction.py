"""Reading the answer out of what an expert wrote."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import assert_never

from symmoe.types import AnswerKind

_BOXED = re.compile(r"\\boxed\s*\{")
_STATED = re.compile(r"(?:final\s+)?answer\s*(?:is|:)\s*:?\s*(.+)", re.IGNORECASE)
# A and I are words too: as choices they must stand in brackets, before a mark, or at the end
_LETTER = re.compile(r"(?:^|[\s(\[*])([B-HJ](?=[)\].:,*\s]|$)|[AI](?=[)\].:,*]|$))")
_OPENING_LETTER = re.compile(r"\s*\(?([A-J])(?:[).:]|\s*$)")
_BARE_LETTER = re.compile(r"\s*\(?([A-J])\b")
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?(?:\s*/\s*\d+)?")
_OPTION = re.compile(r"(?m)(?:^|\s)\(?A[).:]\s.*?(?:^|\s)\(?B[).:]\s", re.DOTALL)
_SPACES = re.compile(r"\s+")


def extract(text: str, kind: AnswerKind, question: str = "") -> str | None:
    """The answer in `text` in a comparable spelling, or None if there is none.

    `auto` reads a choice letter where the question lists options, else what is boxed or stated as the answer, else the
    whole text.
    """
    if not text.strip():
        return None
    match kind:
        case "auto":
            return _auto(text, question)
        case "choice":
            return _choice(text)
        case "number":
            return _number(text)
        case "math":
            return boxed(text) or _stated(text) or _last_line(text)
        case "text":
            return normalise(boxed(text) or text)
    assert_never(kind)


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


def normalise(text: str) -> str:
    """Case, outer punctuation and runs of spaces removed: what a reader takes for the same answer."""
    return _SPACES.sub(" ", text).strip().strip(".!\"'`*").strip().casefold()


def _auto(text: str, question: str) -> str | None:
    if _OPTION.search(question):
        return _choice(text) or normalise(text)
    found = boxed(text) or _stated(text) or text
    return _canonical_number(found) or normalise(found)


def _choice(text: str) -> str | None:
    said = boxed(text) or _stated(text) or text
    opening = (_OPENING_LETTER if said is text else _BARE_LETTER).match(said)
    if opening:
        return opening[1]
    letters = _LETTER.findall(said)
    if letters:
        return str(letters[-1])  # after reasoning, what is named last is meant
    words = _YES_NO.findall(said)
    return words[-1].casefold() if words else None


def _number(text: str) -> str | None:
    numbers = _NUMBER.findall(boxed(text) or _stated(text) or text)
    return _canonical_number(numbers[-1]) if numbers else None


def _canonical_number(text: str) -> str | None:
    """`1,000.50` as `1000.5`; None for anything but a plain number or fraction."""
    said = text.strip().rstrip(".").lstrip("$")
    if not _NUMBER.fullmatch(said):
        return None
    plain = said.replace(",", "").replace(" ", "")
    if "/" in plain:
        return plain
    try:
        value = Decimal(plain).normalize()
    except ArithmeticError:  # an exponent beyond all bounds
        return None
    return format(value, "f") if abs(value.adjusted()) < 30 else str(value)


def _stated(text: str) -> str | None:
    statements = _STATED.findall(text)
    return statements[-1].splitlines()[0].strip().rstrip(".") if statements else None


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip()
