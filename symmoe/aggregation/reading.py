"""Groups candidates that give the same answer: by extracted answer, and for prose by meaning.

Sentence embeddings place "rates rise" beside "rates fall": texts merge into one answer only if nothing in their words
contradicts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np

from symmoe.aggregation.extraction import (
    canonical_number,
    equal,
    extract,
    is_choice,
    is_number,
    visible,
    without_reasoning,
)
from symmoe.protocols import Embedder
from symmoe.tools import normalised
from symmoe.types import AnswerKind, Candidate, Query
from symmoe.types.quick import quick

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
    """Whether texts differ in numbers, names or negations, in the order of the same words, or by one replaced word."""
    if _one_place_apart(first, second):  # what is cheap comes first
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
    begin = first.rfind(" ", 0, _alike(first, second)) + 1
    ours, theirs = first[begin:], second[begin:]
    end = ours.find(" ", len(ours) - _alike(ours, theirs, at_end=True))
    behind = len(ours) - end if end >= 0 else 0
    if max(len(ours), len(theirs)) - behind > _AROUND:  # more than a few words
        return False
    around = first[max(0, begin - _AROUND) : begin], first[len(first) - behind :][:_AROUND]
    # what has a letter or a digit at an end; to count fewer than there are only costs time
    words = [word[0].isalnum() or word[-1].isalnum() for text in around for word in text.split()]
    if sum(words) < 2 * _SUBSTITUTED:
        return False
    a, b = ([token.lower() for token in _tokens(text[: len(text) - behind])] for text in (ours, theirs))
    apart = bool(a and b) and max(len(a), len(b)) <= _SUBSTITUTED and set(a).isdisjoint(b)
    return apart and _carries_meaning(a) and _carries_meaning(b)


def _alike(first: str, second: str, at_end: bool = False) -> int:
    """How many characters two texts begin with alike, or end with."""
    most = min(len(first), len(second))
    near = first[-_AROUND:] == second[-_AROUND:] if at_end else first[:_AROUND] == second[:_AROUND]
    if not near:  # most texts part soon
        return _alike_within(min(most, _AROUND), first, second, at_end)
    if at_end and most > _AROUND:  # and are the same from there on
        a, b = len(first) - most + _AROUND, len(second) - most + _AROUND
        if first[a:] == second[b:]:
            return most - _AROUND + _alike_within(_AROUND, first[:a], second[:b], at_end)
    return _alike_within(most, first, second, at_end)


def _alike_within(most: int, first: str, second: str, at_end: bool) -> int:
    """The same of so many characters at most."""
    order: Literal["big", "little"] = "big" if at_end else "little"
    if at_end:
        first, second = first[len(first) - most :], second[len(second) - most :]
    else:
        first, second = first[:most], second[:most]
    code, bits = "ascii", 8
    if not (first.isascii() and second.isascii()):
        code, bits = "utf-32-be" if at_end else "utf-32-le", 32
    # as numbers texts are compared at once: the lowest bit in which they differ tells where they part
    ours = int.from_bytes(first.encode(code, "surrogatepass"), order)
    differ = ours ^ int.from_bytes(second.encode(code, "surrogatepass"), order)
    return ((differ & -differ).bit_length() - 1) // bits if differ else most


def _carries_meaning(words: Sequence[str]) -> bool:
    return not _FUNCTION_WORDS.issuperset(words)


SIMILARITY = 0.8
"""Cosine similarity from which two texts say the same, if they do not contradict each other."""

SHORTEST, LONGEST = 8, 180
_LONGEST_PROSE = 40 * LONGEST
"""Characters; without this bound one word could be as long as an answer, and comparing it slow."""
"""Words of a text that embeddings can tell: shorter ones are compared as written, longer ones do not fit."""

_MARKS = ("```", *"{}[]<>=\\|")
_ITEM = re.compile(r"^\s*[-*\d]", re.MULTILINE)


class SemanticClusters:
    """Groups texts by cosine similarity, complete linkage: a text joins a group if it is similar enough to all in it.

    Texts that contradict each other never share a group. Lists, code and formulas are not prose: they stand alone.
    """

    def __init__(self, embedder: Embedder, similarity: float = SIMILARITY) -> None:
        self._embedder, self._similarity = embedder, similarity

    def cluster(self, texts: Sequence[str]) -> list[list[int]]:
        """The indices of `texts` in groups; groups and members are in the order of their first text."""
        short = [place for place, text in enumerate(texts) if len(text) <= _LONGEST_PROSE]
        # most that differ are one place apart, which takes less to find out than whether they are prose
        pairs = [(a, b) for a, b in combinations(short, 2) if not _one_place_apart(texts[a], texts[b])]
        prose = [place for place in short if is_prose(texts[place])] if pairs else []
        agreeing = {(a, b) for a, b in pairs if a in prose and b in prose and not disagree(texts[a], texts[b])}
        if not agreeing:
            return [[place] for place in range(len(texts))]
        rows = self._embedder.embed([texts[place] for place in prose])
        cosine = dict(zip(prose, np.asarray(rows, dtype=np.float64), strict=True))
        near = {(a, b) for a, b in agreeing if float(cosine[a] @ cosine[b]) >= self._similarity}
        groups: list[list[int]] = []
        for place in range(len(texts)):
            home = next((group for group in groups if all((other, place) in near for other in group)), None)
            if home is None:
                groups.append([place])
            else:
                home.append(place)
        return groups


def is_prose(text: str) -> bool:
    """Whether a text is sentences, of a length that embeddings can compare, and not a list, code or a formula."""
    if len(text) > _LONGEST_PROSE:
        return False
    words = text.split()
    if (
        not SHORTEST <= len(words) <= LONGEST
        or 2 * text.count(",") >= len(words)
        or any(mark in text for mark in _MARKS)
    ):
        return False
    return not (_ITEM.search(text) if "\n" in text else _ITEM.match(text))


UNREAD = ""
"""The answer of candidates from which none can be read."""


@quick(frozen=True, slots=True)
class Reading:
    """One distinct answer, and the indices of the candidates that give it."""

    answer: str
    members: tuple[int, ...]


def read(query: Query, candidates: Sequence[Candidate], clusters: SemanticClusters | None = None) -> list[Reading]:
    """The distinct answers among candidates, in the order of their first; failed generations give none."""
    groups: list[tuple[str, list[int]]] = []
    for place, candidate in enumerate(candidates):
        extracted = answer_in(candidate, query)
        home = next((members for answer, members in groups if equal(answer, extracted, query.kind)), None)
        if home is None:
            groups.append((extracted, [place]))
        else:
            home.append(place)
    readings = [Reading(answer, tuple(members)) for answer, members in groups]
    if any(candidate.calls for candidate in candidates):  # other arguments are another call, however alike they read
        return readings
    if clusters is None or len(readings) == 1:
        return readings
    return _merged(readings, query.kind, candidates, clusters)


def answer_in(candidate: Candidate, query: Query) -> str:
    """A candidate's answer in a normal form for comparison, or `UNREAD`."""
    if candidate.finish_reason == "error":
        return UNREAD
    if candidate.calls:
        return normalised(candidate.calls)
    return extract(candidate.text, query.kind, query.text) or UNREAD


def failed(candidate: Candidate) -> bool:
    """Whether a candidate has no content: its generation failed, or gave nothing visible."""
    text = candidate.text
    seen = text[:1].isascii() and text[:1].isalnum()  # as nearly always
    return candidate.finish_reason == "error" or not (seen or visible(text).strip())


def _merged(
    readings: list[Reading], kind: AnswerKind, candidates: Sequence[Candidate], clusters: SemanticClusters
) -> list[Reading]:
    """Free-form answers that say the same as one; by itself a text is compared with the marks and case it had.

    Letters and numbers are what was meant, however alike the texts around them are.
    """
    free = [reading.answer != UNREAD and not _exact(reading.answer) for reading in readings]
    if kind not in ("auto", "text") or sum(free) < 2:
        return readings
    first = [candidates[reading.members[0]] for reading in readings]
    texts = [
        without_reasoning(visible(each.text)) if is_free else UNREAD for each, is_free in zip(first, free, strict=True)
    ]
    groups = clusters.cluster(texts)
    if len(groups) == len(readings):
        return readings
    return [
        Reading(readings[group[0]].answer, tuple(sorted(m for place in group for m in readings[place].members)))
        for group in groups
    ]


def _exact(answer: str) -> bool:
    return is_choice(answer) or is_number(answer)
