"""Whether two texts contradict each other, however near they are in meaning.

Sentence embeddings place "rates rise" beside "rates fall": texts merge into one answer only if nothing here objects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

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
_SUBSTITUTED = 3
_LIKE = 0.5


def disagree(first: str, second: str) -> bool:
    """Other numbers, names or denials, the same words in another order, or one word put in another's place."""
    ours, theirs = _tokens(first), _tokens(second)
    return (
        _numbers(ours) != _numbers(theirs)
        or _denials(ours) != _denials(theirs)
        or _other_names(ours, theirs)
        or _worded_apart(_lower(ours), _lower(theirs))
    )


def _tokens(text: str) -> list[str]:
    return [token.removesuffix("'s").removesuffix("’s") for token in _TOKEN.findall(text)]


def _numbers(tokens: Sequence[str]) -> list[str]:
    said = (_NUMBER_WORDS.get(token.lower()) or canonical_number(token.rstrip(",")) for token in tokens)
    return [number for number in said if number is not None]


def _denials(tokens: Sequence[str]) -> int:
    """Whether an odd number of words deny."""
    return sum(token.lower() in _DENIALS or token.lower().endswith(("n't", "n’t")) for token in tokens) % 2


def _other_names(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether each text has a name that the other has not: a capital in a sentence, or in one of them at its head."""
    names = [{token for token in tokens[1:] if token[0].isupper() and len(token) > 1} for tokens in (ours, theirs)]
    words = [set(_lower(tokens)) for tokens in (ours, theirs)]
    missing = [{name for name in names[n] if name.lower() not in words[1 - n]} for n in (0, 1)]
    heads = [tokens[:1] != [] and _is_other_head(tokens[0], words[1 - n]) for n, tokens in enumerate((ours, theirs))]
    return all(missing) or bool(missing[0] and heads[1]) or bool(missing[1] and heads[0])


def _is_other_head(head: str, words: set[str]) -> bool:
    """Whether a text begins with a word of meaning that the other text has not."""
    return head[0].isupper() and head.lower() not in words and head.lower() not in _FUNCTION_WORDS


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


def _carries_meaning(words: Sequence[str]) -> bool:
    return any(word not in _FUNCTION_WORDS for word in words)


def _lower(tokens: Sequence[str]) -> list[str]:
    return [token.lower() for token in tokens]
