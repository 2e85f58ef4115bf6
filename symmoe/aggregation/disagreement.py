"""Whether two texts contradict each other, however near they are in meaning.

Sentence embeddings place "rates rise" beside "rates fall": texts merge into one answer only if nothing here objects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from symmoe.aggregation.extraction import canonical_number

_TOKEN = re.compile(r"-?\d[\d,]*(?:\.\d+)?|[^\W\d_]+(?:['’][^\W\d_]+)*")
_NUMBER_WORDS = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve twenty thirty hundred thousand".split(),
        "0 1 2 3 4 5 6 7 8 9 10 11 12 20 30 100 1000".split(),
        strict=True,
    )
)
_DENIALS = frozenset("not no never none nor neither cannot without nobody nothing false".split())
_FUNCTION_WORDS = frozenset(
    "a an the this that these those it its he she they them his her their i we you of to in on at by for from with and "
    "or so as than then is are was were be been being has have had do does did will would can could may might must "
    "which who whose whom also very quite".split()
)
_SUBSTITUTED, _AROUND = 3, 60
_LIKE = 0.5


def disagree(first: str, second: str) -> bool:
    """Other numbers, names or denials, the same words in another order, or one word put in another's place."""
    if _one_place_apart(first, second):
        return True
    ours, theirs = _words(first), _words(second)
    return (
        ours.numbers != theirs.numbers
        or ours.denies != theirs.denies
        or _other_names(ours, theirs)
        or _worded_apart(ours.lower, theirs.lower)
    )


@lru_cache(maxsize=8)
def _words(text: str) -> _Words:
    """The words of a text, which is compared with several."""
    return _Words(text)


class _Words:
    """The words of a text as they are compared: in lower case, its numbers, its names, and whether it denies."""

    def __init__(self, text: str) -> None:
        tokens = _tokens(text)
        self.lower = lower = [token.lower() for token in tokens]
        self.head = tokens[0] if tokens else ""
        figures = [
            _NUMBER_WORDS.get(low) or canonical_number(token.rstrip(","))
            for low, token in zip(lower, tokens, strict=True)
            if low in _NUMBER_WORDS or not token[:1].isalpha()
        ]
        self.numbers = [number for number in figures if number is not None]
        denials = sum(map(_DENIALS.__contains__, lower))
        denials += sum(low.endswith(("n't", "n’t")) for low in lower if low[-2:] in ("'t", "’t"))
        self.denies = denials % 2
        self.names = {token for token in tokens[1:] if token[:1].isupper() and len(token) > 1}
        self.set = set(lower)


def _tokens(text: str) -> list[str]:
    """Words and numbers, without a genitive's end."""
    tokens: list[str] = _TOKEN.findall(text)
    if "'s" in text or "’s" in text:
        return [token.removesuffix("'s").removesuffix("’s") for token in tokens]
    return tokens


def _other_names(ours: _Words, theirs: _Words) -> bool:
    """Whether each text has a name that the other has not: a capital in a sentence, or in one of them at its head."""
    missing = [
        any(name.lower() not in other.set for name in one.names) for one, other in ((ours, theirs), (theirs, ours))
    ]
    heads = [_is_other_head(one.head, other.set) for one, other in ((ours, theirs), (theirs, ours))]
    return all(missing) or (missing[0] and heads[1]) or (missing[1] and heads[0])


def _is_other_head(head: str, words: set[str]) -> bool:
    """Whether a text begins with a word of meaning that the other text has not."""
    return head[:1].isupper() and head.lower() not in words and head.lower() not in _FUNCTION_WORDS


def _worded_apart(ours: list[str], theirs: list[str]) -> bool:
    """Whether texts of like wording differ in their order, or in words that carry meaning."""
    if sorted(ours) == sorted(theirs):
        return ours != theirs
    matched = SequenceMatcher(None, ours, theirs, autojunk=False)
    if matched.ratio() < _LIKE:
        return False  # told in other words altogether: nothing stands in another's place
    return any(
        _carries_meaning(ours[a:b]) and _carries_meaning(theirs[c:d])
        for kind, a, b, c, d in matched.get_opcodes()
        if kind == "replace" and max(b - a, d - c) <= _SUBSTITUTED
    )


def _one_place_apart(first: str, second: str) -> bool:
    """Whether texts are the same but for few words of meaning in one place: most that disagree are told by that."""
    before = _alike(first, second)
    begin = first.rfind(" ", 0, before) + 1
    ours, theirs = first[begin:], second[begin:]
    alike = _alike(ours[::-1], theirs[::-1])
    end = ours.find(" ", len(ours) - alike)
    behind = len(ours) - end if end >= 0 else 0
    around = first[max(0, begin - _AROUND) : begin], first[len(first) - behind :][:_AROUND]
    if sum(len(_TOKEN.findall(text)) for text in around) < 2 * _SUBSTITUTED:
        return False
    a, b = ([token.lower() for token in _tokens(text[: len(text) - behind])] for text in (ours, theirs))
    apart = bool(a and b) and max(len(a), len(b)) <= _SUBSTITUTED and set(a).isdisjoint(b)
    return apart and _carries_meaning(a) and _carries_meaning(b)


def _alike(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    low, step, most = 0, 16, min(len(first), len(second))
    while low < most and first[low : low + step] == second[low : low + step]:
        low, step = low + step, 2 * step
    low, high = min(low, most), min(low + step, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle - 1)
    return low


def _carries_meaning(words: Sequence[str]) -> bool:
    return any(word not in _FUNCTION_WORDS for word in words)
