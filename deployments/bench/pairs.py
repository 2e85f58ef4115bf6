"""Pairs of questions of which a cache must tell whether one's answer will do for the other."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from symmoe.types import Question

_WORD = re.compile(r"[^\W\d_]+|\d+")
_FRAME = 0.4
"""A word that more of a family's questions have than this is its wording, not what is asked about."""
_LONG = 5
_TURNED = (
    ("smallest to largest", "largest to smallest"),
    (" + ", " - "),
    ("will it be in", "was it before"),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, and how they differ."""

    kind: str
    one: str
    other: str


def same(wordings: Sequence[Sequence[str]]) -> list[Pair]:
    """Any two wordings of one question."""
    return [Pair("same", one, other) for each in wordings for one, other in combinations(each, 2)]


def different(questions: Sequence[Question]) -> list[Pair]:
    """Any two questions: `family` where both are of one, `other` where not."""
    return [
        Pair("family" if one.family == other.family else "other", one.question, other.question)
        for one, other in combinations(questions, 2)
        if one.question != other.question
    ]


def near(questions: Sequence[Question], seed: int) -> list[Pair]:
    """Each question beside itself with one thing changed, in every way in which that can be done.

    number   another number of as many digits
    name     another word with a capital, of the same family
    word     another word without one, of the same family; none as short as those that join others
    order    two words, or two numbers, in each other's place
    turned   asked the other way round: sorted down, subtracted, days ago
    """
    rng, words = Random(seed), _telling(questions)
    ways: Mapping[str, Callable[[str, Sequence[str]], str | None]] = {
        "number": lambda text, _: _number(text, rng),
        "name": lambda text, known: _replaced(text, [word for word in known if word[0].isupper()], rng),
        "word": lambda text, known: _replaced(
            text, [word for word in known if word[0].islower() and len(word) >= _LONG], rng
        ),
        "order": lambda text, known: _swapped(text, known, rng),
        "turned": lambda text, _: _turned(text),
    }
    made = [
        (kind, question.question, change(question.question, words[question.family]))
        for question in questions
        for kind, change in ways.items()
    ]
    return [Pair(kind, one, other) for kind, one, other in made if other is not None and other != one]


def _telling(questions: Sequence[Question]) -> dict[str, list[str]]:
    """By family, the words that tell its questions apart."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sizes = Counter(question.family for question in questions)
    for question in questions:
        counts[question.family].update({word for word in _WORD.findall(question.question) if not word.isdigit()})
    return {
        family: sorted(word for word, count in found.items() if count < max(2, _FRAME * sizes[family]))
        for family, found in counts.items()
    }


def _number(text: str, rng: Random) -> str | None:
    places = list(re.finditer(r"\d+", text))
    if not places:
        return None
    place = rng.choice(places)
    digits = len(place.group())
    least = 10 ** (digits - 1)
    drawn = rng.choice([n for n in (rng.randrange(least, 10 * least) for _ in range(9)) if str(n) != place.group()])
    return text[: place.start()] + str(drawn) + text[place.end() :]


def _replaced(text: str, known: Sequence[str], rng: Random) -> str | None:
    places = [place for place in _WORD.finditer(text) if place.group() in known]
    if not places or len(known) < 2:
        return None
    place = rng.choice(places)
    drawn = rng.choice([word for word in known if word != place.group()])
    return text[: place.start()] + drawn + text[place.end() :]


def _swapped(text: str, known: Sequence[str], rng: Random) -> str | None:
    places = [place for place in _WORD.finditer(text) if place.group() in known or place.group().isdigit()]
    pairs = [
        (one, other)
        for one, other in combinations(places, 2)
        if one.group() != other.group() and one.group().isdigit() == other.group().isdigit()
    ]
    if not pairs:
        return None
    one, other = rng.choice(pairs)
    between = text[one.end() : other.start()]
    return text[: one.start()] + other.group() + between + one.group() + text[other.end() :]


def _turned(text: str) -> str | None:
    for one, other in (pair for both in _TURNED for pair in (both, both[::-1])):
        if one in text:
            return text.replace(one, other)
    return None
