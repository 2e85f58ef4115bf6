"""Extracts the answer from what an expert wrote, and compares answers.

Invisible and broken characters are removed first, and so is the reasoning that led to the answer.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from functools import lru_cache
from math import gcd
from typing import assert_never

from symmoe.questions.families import boxed, options_listed
from symmoe.types import AnswerKind

_LINE_ENDS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_PRINTED = bytes(range(32, 127))
_SEEN = _PRINTED + b"\n\t"
_REASONING = re.compile(
    r"<(?P<close>/)?(?:think|thinking|thought|reasoning|reflection)>"
    r"|\[(?P<close_square>/)?THINK\]"
    r"|◁(?P<close_triangle>/)?think▷"
    r"|<\|(?:begin|(?P<close_bar>end))_of_thought\|>",
    re.IGNORECASE,
)


def encodable(text: str) -> str:
    """`text` with every half of a surrogate pair, which UTF-8 cannot hold, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def visible(text: str) -> str:
    """`text` without control, zero-width, direction and tag characters; every line ending becomes a newline."""
    if _is_of(_SEEN, text):
        return text  # as most are: a fortieth of the time
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", encodable(text)))


def _is_of(characters: bytes, text: str) -> bool:
    """Whether a text has these ASCII characters alone."""
    return text.isascii() and not text.encode().translate(None, characters)


def without_reasoning(text: str) -> str:
    """The text outside of `<think>…</think>` and similar markers.

    A closing marker alone ends reasoning that began with the text, as with templates that open it in the prompt. If
    nothing is outside, as in an answer cut off while reasoning, the reasoning itself is returned.
    """
    if "<" not in text and "[" not in text and "◁" not in text:
        return text
    outside: list[str] = []
    start, reasoning = 0, False
    for marker in _REASONING.finditer(text):
        closes = any(marker.groupdict().values())
        if closes and not reasoning:
            outside = []
        elif not reasoning:
            outside.append(text[start : marker.start()])
        reasoning, start = not closes, marker.end()
    if not reasoning:
        outside.append(text[start:])
    remaining = "".join(outside)
    return remaining if remaining.strip() else _REASONING.sub(" ", text)


# whitespace is matched possessively: endless answers of nothing else would take the square of their length
_STATED = re.compile(r"(?:answer|(?:correct|right|best) (?:option|choice))\s*+(?:is|:)\s*+:?+\s*+(.+)", re.IGNORECASE)
# A and I are words too: as choices they must stand in brackets, before a mark, or at the end
_LETTER = re.compile(r"(?:^|[\s(\[*])([B-HJ](?=[)\].:,*\s]|$)|[AI](?=[)\].:,*]|$))")
_OPENING_LETTER = re.compile(r"\s*+[(*]{0,3}([A-J])(?:[).:]|\*\*|\s*$)")
_BARE_LETTER = re.compile(r"\s*+[(*]{0,3}([A-J])\b")
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_OPENING_WORD = re.compile(r"\s*+\*{0,2}(yes|no|true|false)\*{0,2}[.,:;!]", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d++)(?:\.\d+)?(?:[eE][+-]?\d+)?(?:\s*+/\s*+\d+)?")
_SPACES = re.compile(r"\s+")
_WORDS_IN_MATHS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*+\{([^{}]*)\}")
_MIXED = re.compile(r"(\d{1,9})\s*+\\[dt]?frac\s*+\{(\d{1,9})\}\s*+\{(\d{1,9})\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*+\{(-?\d+)\}\s*+\{(\d+)\}")
_THIN = re.compile(r"(?<=\d)(?:\{,\}|\\,|[\u00a0\u2009\u202f])(?=\d{3})")
_PLAIN = str.maketrans({"−": "-", "\u3000": " "} | {chr(0xFF01 + n): chr(0x21 + n) for n in range(94)})
_CHOICE = re.compile("[A-J]|yes|no|true|false")
_HEAD, _TAIL = 1_000, 40_000
_KEPT = 2_000
"""Characters of the longest text that is not read anew each time."""
_LONGEST_OPTION = 200
"""Characters of a text that may be an option's words; a longer one that names no option gives no answer."""


def extract(text: str, kind: AnswerKind, question: str = "") -> str | None:
    """The answer in `text` in a normal form for comparison, or None if there is none.

    Reasoning between markers and invisible characters are skipped; of a very long text only the beginning and the end
    are read. `auto` reads a choice letter where the question lists options, otherwise what is boxed or stated as the
    answer, otherwise the whole text, which must be short if the question has options.
    """
    options = kind == "auto" and lists_options(question)
    return _again(text, kind, options) if len(text) <= _KEPT else _extracted(text, kind, options)


def _extracted(text: str, kind: AnswerKind, options: bool) -> str | None:
    whole = without_reasoning(visible(text))
    if not whole.isascii():
        whole = whole.translate(_PLAIN)
    if not whole.strip():
        return None
    text = whole if len(whole) <= _HEAD + _TAIL else f"{whole[:_HEAD]}\n{whole[-_TAIL:]}"
    match kind:
        case "auto":
            return _auto(text, whole, options)
        case "choice":
            return _choice(text)
        case "number":
            return _number(text)
        case "math":
            return boxed(text) or stated(text) or _last_line(text)
        case "text":
            return normalise(boxed(text) or whole) or None
    assert_never(kind)


_again = lru_cache(maxsize=4096)(_extracted)  # a batch reads an answer at every wave of its question


def lists_options(question: str) -> bool:
    """Whether a question lists options (A), (B), … to choose from."""
    return options_listed(question) > 0


def normalise(text: str) -> str:
    """`text` without case, outer punctuation and runs of spaces."""
    printable = _is_of(_PRINTED, text) or text.isprintable()
    if "  " in text or not printable:  # of what is printable, only spaces are white
        text = " ".join(text.split())
    return text.strip().strip(".!\"'`*").strip().casefold()


def is_number(answer: str) -> bool:
    """Whether an answer as `extract` gives it is a number or a fraction."""
    return canonical_number(answer) is not None


def is_choice(answer: str) -> bool:
    """Whether an answer as `extract` gives it is an option's letter, or yes or no."""
    return bool(_CHOICE.fullmatch(answer))


def _auto(text: str, whole: str, options: bool) -> str | None:
    if options:
        return _choice(text) or (normalise(whole) if len(whole) <= _LONGEST_OPTION else None) or None
    found = boxed(text) or stated(text) or whole
    return canonical_number(_unwrapped(found)) or normalise(found) or None


def _choice(text: str) -> str | None:
    found = boxed(text) or stated(text)
    claim = _unwrapped(found or text)
    opening = (_BARE_LETTER if found else _OPENING_LETTER).match(claim)
    if opening:
        return opening[1]
    letters = _LETTER.findall(claim)
    if letters:
        return str(letters[-1])  # after reasoning, what is named last is meant
    opening = _OPENING_WORD.match(claim)
    words = [opening[1]] if opening else _YES_NO.findall(claim)
    return str(words[-1]).casefold() if words else None


def numbers_in(text: str) -> list[str]:
    """The numbers in a text as written, in order."""
    return [str(number) for number in _NUMBER.findall(_unwrapped(text))]


def _number(text: str) -> str | None:
    numbers = numbers_in(boxed(text) or stated(text) or text)
    return canonical_number(numbers[-1]) if numbers else None


def canonical_number(text: str) -> str | None:
    """`1,000.50` as `1000.5`, `2/4` as `1/2`; None for anything but a plain number or fraction."""
    stripped = text.strip().strip("*$").rstrip(".").strip()
    if not _NUMBER.fullmatch(stripped):
        return None
    plain = _SPACES.sub("", stripped.replace(",", ""))
    if "/" in plain:
        return _reduced(plain)
    try:
        value = Decimal(plain).normalize(Context(prec=max(28, len(plain))))
    except ArithmeticError:  # an exponent beyond all bounds
        return None
    return format(value, "f") if abs(value.adjusted()) < 30 else str(value)


def _reduced(plain: str) -> str:
    numerator, _, denominator = plain.partition("/")
    if len(plain) > 100 or "." in plain or "e" in plain.lower() or int(denominator) == 0:
        return plain
    common = gcd(int(numerator), int(denominator))
    return f"{int(numerator) // common}/{int(denominator) // common}".removesuffix("/1")


def _unwrapped(text: str) -> str:
    r"""`\text{B}` as `B`, `2\frac{1}{2}` as `5/2`, `1{,}000` and `1\,000` as `1,000`, without dollar signs."""
    if text.isascii() and "\\" not in text and "{" not in text:  # `{,}` takes longer to look for
        return text
    text = _WORDS_IN_MATHS.sub(r"\1", text)
    text = _MIXED.sub(lambda m: f" {int(m[1]) * int(m[3]) + int(m[2])}/{m[3]}", text)
    return _THIN.sub(",", _FRACTION.sub(r" \1/\2", text)).replace("\\%", "%").replace("\\$", "$")


def stated(text: str) -> str | None:
    """What the last phrase like `the answer is …` states, up to the end of its line; None if there is none."""
    if text.isascii():
        lower = text.lower()
        if "answer" not in lower and "option" not in lower and "choice" not in lower:
            return None
    statements = _STATED.findall(text)
    return statements[-1].splitlines()[0].strip().rstrip(".") if statements else None


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].strip()


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
    """Whether two answers are equal as strings or, where they look like mathematics, in value by math-verify.

    Answers too long, or possibly too slow to evaluate, are compared as strings.
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
    first_value, second_value = (parse(f"${text}$", parsing_timeout=None) for text in (first, second))
    return bool(verify(first_value, second_value, timeout_seconds=None))
