"""Families of procedurally generated questions that a small model can learn, and the options that a question lists.

A family is a function from a random source to `(question, answer)`. Those that wrap `reasoning-gym` keep its wording;
the others are ours. Every family asks for one short answer: a candidate costs few tokens and is checked exactly.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from symmoe.types import Scorer

OPEN = 50
"""As how many options a question counts that lists none."""
_OPTIONS = [re.compile(rf"(?:^|\s)\(?{letter}[).:]\s") for letter in "ABCDEFGHIJ"]
_CLOSE = 1e-4
_BOXED = re.compile(r"\\boxed\s*+\{")


def options_listed(question: str) -> int:
    """How many options (A), (B), … a question lists in order; 0 for fewer than two."""
    return len(_marks(question))


def options_in(question: str) -> tuple[str, tuple[str, ...]]:
    """The question without its options, and the options by letter; none if it lists none."""
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
    if "A" not in question or ("A)" not in question and "A." not in question and "A:" not in question):
        return marks
    for option in _OPTIONS:
        match = option.search(question, marks[-1][1] - 1 if marks else 0)
        if match is None:
            break
        marks.append(match.span())
    return marks if len(marks) > 1 else []


def options_of(question: str) -> int:
    """How many answers a question could have: the options that it lists, or `OPEN`."""
    return options_listed(question) or OPEN


def support(accuracy: float, options: int) -> float:
    """What an answer gains from an expert of this accuracy; 0 for one no better than chance."""
    p = _CLOSE if accuracy < _CLOSE else 1 - _CLOSE if accuracy > 1 - _CLOSE else accuracy
    odds = p * (options - 1) / (1 - p)
    return math.log(odds) if odds > 1 else 0.0


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, with its braces balanced; None if there is none or it never closes."""
    if "\\" not in text:  # a twentieth of the time of looking for all of it
        return None
    openings = list(_BOXED.finditer(text)) if "\\boxed" in text else []
    if not openings:
        return None
    start = openings[-1].end()
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position].strip()
    return None


Draw = Callable[[Random], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of question: its name, how an answer is checked, and how to draw one."""

    name: str
    scorer: Scorer
    draw: Draw


def _gym(dataset: str, **config: Any) -> Draw:
    """Draw from a `reasoning-gym` dataset, reseeded for every question."""

    def draw(rng: Random) -> tuple[str, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # raised when one of its dependencies is first compiled
            import reasoning_gym

        entry = reasoning_gym.create_dataset(dataset, size=1, seed=rng.randrange(2**31), **config)[0]
        return " ".join(entry["question"].split()), entry["answer"]

    return draw


_ROMAN = ((900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"))
_ROMAN += ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))  # type: ignore[assignment]


def roman(number: int) -> str:
    """Write 1 to 999 as a Roman numeral."""
    digits = ""
    for value, letters in _ROMAN:
        count, number = divmod(number, value)
        digits += letters * count
    return digits


def _draw_roman(rng: Random) -> tuple[str, str]:
    number = rng.randint(1, 999)
    if rng.random() < 0.5:
        return f"Write the number {number} as a Roman numeral.", roman(number)
    return f"Which number is the Roman numeral {roman(number)}?", str(number)


_ES_UNITS = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco "
    "veintiséis veintisiete veintiocho veintinueve"
).split()
_ES_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()
_ES_HUNDREDS = (
    "ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos"
).split()


def spanish(number: int) -> str:
    """Write 0 to 999 in Spanish words."""
    if number < 30:
        return _ES_UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _ES_TENS[tens - 3] + (f" y {_ES_UNITS[unit]}" if unit else "")
    if number == 100:
        return "cien"
    hundreds, rest = divmod(number, 100)
    return _ES_HUNDREDS[hundreds - 1] + (f" {spanish(rest)}" if rest else "")


def _draw_spanish(rng: Random) -> tuple[str, str]:
    number = rng.randint(1, 999)
    return f"How do you say the number {number} in Spanish?", spanish(number)


_MONTHS = "January February March April May June July August September October November December".split()
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def _draw_dates(rng: Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        day = datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(60000))
        long = f"{_MONTHS[day.month - 1]} {day.day}, {day.year}"
        return f"Write the date {long} in ISO format.", day.isoformat()
    start, shift, forward = rng.randrange(7), rng.randint(1, 20), rng.random() < 0.5
    words = f"in {shift} days" if forward else f"{shift} days ago"
    verb = "will it be" if forward else "was it"
    target = _WEEKDAYS[(start + (shift if forward else -shift)) % 7]
    return f"Today is {_WEEKDAYS[start]}. What day of the week {verb} {words}?", target


_NAMES = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Iris",
    "Jonas",
    "Kim",
    "Leo",
    "Maria",
    "Nora",
    "Omar",
    "Paula",
    "Quinn",
    "Rosa",
    "Sam",
    "Tara",
]
_CITIES = (
    "Paris Rome Oslo Lima Cairo Delhi Tokyo Quito Dublin Vienna Prague Athens Lisbon Boston Seoul Nairobi"
).split()
_JOBS = "nurse teacher pilot baker farmer lawyer painter chemist plumber singer driver waiter".split()


def _draw_json(rng: Random) -> tuple[str, str]:
    name, age, city, job = rng.choice(_NAMES), rng.randint(18, 90), rng.choice(_CITIES), rng.choice(_JOBS)
    facts = [("age", age, f"is {age} years old"), ("city", city, f"lives in {city}"), ("job", job, f"works as a {job}")]
    rng.shuffle(facts)
    facts = facts[: rng.randint(1, 3)]
    sentence = " and ".join(words for _, _, words in facts)
    record = {"name": name} | {key: value for key, value, _ in facts}
    return f"Turn this into a JSON record: {name} {sentence}.", json.dumps(record)


def _draw_sorting(rng: Random) -> tuple[str, str]:
    numbers = rng.sample(range(1, 100), rng.randint(3, 6))
    descending = rng.random() < 0.5
    order = "largest to smallest" if descending else "smallest to largest"
    listed = ", ".join(map(str, numbers))
    return f"Sort these numbers from {order}: {listed}", ", ".join(map(str, sorted(numbers, reverse=descending)))


def _draw_arithmetic(rng: Random) -> tuple[str, str]:
    first, second = rng.randint(10, 99), rng.randint(1, 99)
    if rng.random() < 0.5:
        return f"Calculate {first} + {second}.", str(first + second)
    return f"Calculate {first} - {second}.", str(first - second)


_NATO = (
    "Alfa Bravo Charlie Delta Echo Foxtrot Golf Hotel India Juliett Kilo Lima Mike November Oscar Papa Quebec "
    "Romeo Sierra Tango Uniform Victor Whiskey Xray Yankee Zulu"
).split()


def _draw_radio(rng: Random) -> tuple[str, str]:
    letters = [rng.randrange(26) for _ in range(rng.randint(3, 5))]
    sign = " ".join(chr(65 + letter) for letter in letters)
    return f"Spell the call sign {sign} in the radio alphabet.", " ".join(_NATO[letter] for letter in letters)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("arithmetic", "number", _draw_arithmetic),
        Family("dates", "exact", _draw_dates),
        Family("json", "exact", _draw_json),
        Family("kinship", "exact", _gym("family_relationships")),
        Family("logic", "choice", _gym("syllogism")),
        Family("radio", "exact", _draw_radio),
        Family("reversal", "exact", _gym("word_sequence_reversal", min_words=3, max_words=6)),
        Family("roman", "exact", _draw_roman),
        Family("sorting", "exact", _draw_sorting),
        Family("spanish", "exact", _draw_spanish),
    )
}
