"""A verifier: the probability that each answer to a question is right, from who gave it and what they wrote.

Boosted trees (Friedman 2001) read one row of features for each distinct answer: the vote's figures, who gave it and who
gave another, features of the texts (how they end, repetition, hedging, whether they derive the number they choose), and
how the chosen option compares with the others. They are trained on answers known to be right or wrong, as verifiers are
(Cobbe et al. 2021, arXiv 2110.14168), but read no hidden states: a question takes a millisecond.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.reading import UNREAD, Reading, read
from symmoe.protocols import Scorer
from symmoe.questions.families import OPEN, options_in, support
from symmoe.types import Candidate, Query, Recruitment, Trees, Verdict

Floats = NDArray[np.float64]
NAN = float("nan")
OF_VOTE = (
    "support", "strongest rival", "support of rivals", "givers", "answers", "voters", "lead", "best giver",
    "expected of all", "expected of voters", "givers of the commonest rival", "options",
)  # fmt: skip
OF_TEXT = (
    "words", "lines", "verdicts", "where it concludes", "repeats", "equations", "digits", "hedges", "letters",
    "ends with its letter", "concludes", "sentences", "repeated lines", "works out its option", "works out another",
    "mentions its number", "words of its option", "words of another", "quotes its option", "quotes others",
)  # fmt: skip
OF_QUESTION = ("length", "length of options", "numeric", "formulas", "numbers")
OF_OPTION = ("length", "longer than", "larger than", "words of the question", "words of others", "none or all")
_WORD = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?")
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:[eE][+-]?\d+)?")
_VERDICT = re.compile(r"answer\s*+(?:is|:)", re.IGNORECASE)
_HEDGE = re.compile(
    r"closest|cannot|can't|assum|none of|not (?:listed|given|possible|enough|match)|approximat|unclear|however|"
    r"probably|might|unfortunately|no correct|doesn't match",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(r"therefore|thus|so |hence", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-J])\)")
_ENDS = re.compile(r"\([A-J]\)\.?\s*$")
_SENTENCE = re.compile(r"[.!?]\s|\n")
_WINDOW, _GRAM, _NEAR = 20_000, 6, 0.01


class Verifying:
    """Trained trees, ready to judge answers."""

    def __init__(self, trees: Trees) -> None:
        self._experts = trees.experts
        self._feature, self._left, self._right = (
            np.array(column, dtype=np.intp) for column in (trees.feature, trees.left, trees.right)
        )
        self._threshold, self._value = np.array(trees.threshold), np.array(trees.value)
        self._unknown_left = np.array(trees.unknown_left, dtype=np.bool_)
        self._roots, self._offset = np.array(trees.roots, dtype=np.intp), trees.offset

    def probabilities(self, rows: Floats) -> Floats:
        """The probability that each answer is right, `[n]`, from its features, `[n, features]`; NaN means unknown."""
        nodes = np.broadcast_to(self._roots, (len(rows), len(self._roots))).copy()
        lines = np.arange(len(rows))[:, None]
        while (self._feature[nodes] >= 0).any():
            feature = self._feature[nodes]
            values = rows[lines, np.maximum(feature, 0)]
            left = np.where(np.isnan(values), self._unknown_left[nodes], values <= self._threshold[nodes])
            nodes = np.where(feature < 0, nodes, np.where(left, self._left[nodes], self._right[nodes]))
        logits = self._offset + self._value[nodes].sum(axis=1)
        return np.asarray(1 / (1 + np.exp(-logits)))

    def weigh(self, query: Query, candidates: Sequence[Candidate], recruitment: Recruitment) -> list[Verdict]:
        """Verdicts whose weights, summed over the candidates of an answer, are its probability; 0 for no answer."""
        readings = [each for each in read(query, candidates) if each.answer != UNREAD]
        weights = [0.0] * len(candidates)
        if readings:
            probabilities = self.probabilities(features(query, candidates, recruitment, readings, self._experts))
            for reading, probability in zip(readings, probabilities.tolist(), strict=True):
                for place in reading.members:
                    weights[place] = probability / len(reading.members)
        return [Verdict(c.expert, c.slot, weight) for c, weight in zip(candidates, weights, strict=True)]


class VerifierScorer:
    """Weighs answers by a verifier's probabilities, and by `otherwise` where no expert's accuracy is known."""

    def __init__(self, verifying: Verifying, otherwise: Scorer) -> None:
        self._verifying, self._otherwise = verifying, otherwise

    def weigh(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        recruitments: Sequence[Recruitment],
    ) -> list[list[Verdict]]:
        """One verdict per candidate of each query, in order."""
        return [
            self._verifying.weigh(query, row, recruitment)
            if recruitment.accuracies
            else self._otherwise.weigh([query], [row], [recruitment])[0]
            for query, row, recruitment in zip(queries, candidates, recruitments, strict=True)
        ]


def features(
    query: Query,
    candidates: Sequence[Candidate],
    recruitment: Recruitment,
    readings: Sequence[Reading],
    experts: Sequence[str],
    signs: Mapping[int, Floats] | None = None,
) -> Floats:
    """The features of each distinct answer, `[readings, features]`, NaN where unknown.

    `experts` have columns of their own. `signs` are features of candidates' texts, by index, where already computed.
    """
    asked = Asked.of(query.text)
    texts = signs or {
        place: signs_of(asked, candidates[place].text, reading.answer)
        for reading in readings
        for place in reading.members
    }
    votes = _votes(asked, candidates, recruitment, readings)
    rows = []
    for number, reading in enumerate(readings):
        best = max(reading.members, key=lambda place: recruitment.accuracies.get(candidates[place].expert, 0.0))
        others = [texts[place] for other in readings if other is not reading for place in other.members]
        givers = {candidates[place].expert for place in reading.members}
        against = {candidates[place].expert for other in readings for place in other.members} - givers
        by_expert = [float(expert in givers) - float(expert in against) for expert in experts]
        giver_signs = np.stack([texts[place] for place in reading.members])
        parts = (votes[number], _mean(giver_signs), texts[best], _mean(np.stack(others) if others else giver_signs[:0]))
        rows.append(np.concatenate([*parts, asked.signs, asked.option(reading.answer), by_expert]))
    return np.stack(rows)


def names(experts: Sequence[str]) -> list[str]:
    """The names of the columns of `features`."""
    texts = [f"{role}: {sign}" for role in ("givers", "best giver", "rivals") for sign in OF_TEXT]
    of_option = [f"option: {sign}" for sign in OF_OPTION]
    return [*OF_VOTE, *texts, *(f"question: {sign}" for sign in OF_QUESTION), *of_option, *experts]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question prepared for comparing answers with it: its options, their words and numbers."""

    options: tuple[str, ...]
    words: tuple[frozenset[str], ...]
    numbers: tuple[tuple[float, ...], ...]
    signs: Floats
    of_options: Floats

    @classmethod
    def of(cls, question: str) -> Asked:
        """Parse a question."""
        body, options = options_in(question)
        words, numbers = tuple(map(_words, options)), tuple(map(_numbers, options))
        numeric = float(np.mean([bool(each) for each in numbers])) if options else 0.0
        lengths = np.array([len(option) for option in options], dtype=np.float64)
        signs = np.array(
            [
                math.log1p(len(body)),
                math.log1p(float(lengths.mean()) if options else 0.0),
                numeric,
                body.count("$") + body.count("="),
                len(_numbers(body)),
            ]
        )
        asks, first = _words(body), np.array([each[0] if each else NAN for each in numbers])
        rows = [
            (
                math.log1p(lengths[n]),
                float((lengths < lengths[n]).mean()),
                float((first < first[n]).mean()) if numeric > 0.7 else NAN,
                len(words[n] & asks) / max(len(words[n]), 1),
                _alike(words, n),
                float(bool(re.search("(?:none|all) of", options[n], re.IGNORECASE))),
            )
            for n in range(len(options))
        ]
        return cls(options, words, numbers, signs, np.array(rows).reshape(len(options), len(OF_OPTION)))

    def place(self, answer: str) -> int | None:
        """The index of the option that an answer is; None for any other answer."""
        place = ord(answer) - ord("A") if len(answer) == 1 else -1
        return place if 0 <= place < len(self.options) else None

    def option(self, answer: str) -> Floats:
        """Features that compare the answer's option with the others."""
        place = self.place(answer)
        return np.full(len(OF_OPTION), NAN) if place is None else self.of_options[place]


def signs_of(asked: Asked, text: str, answer: str) -> Floats:
    """Features of an answer's text, `[OF_TEXT]`."""
    text = text[-_WINDOW:]
    words = [word.lower() for word in _WORD.findall(text)]
    verdicts = [match.start() for match in _VERDICT.finditer(text)]
    before = text[: verdicts[-1]] if verdicts else text
    lines = [line for line in text.split("\n") if line.strip()]
    grams = [tuple(words[n : n + _GRAM]) for n in range(len(words) - _GRAM + 1)]
    return np.array(
        [
            math.log1p(len(words)),
            len(lines),
            len(verdicts),
            verdicts[-1] / len(text) if verdicts else NAN,
            _repeated(grams),
            text.count("=") / max(len(words), 1),
            sum(map(str.isdigit, text)) / max(len(text), 1),
            len(_HEDGE.findall(text)),
            len(set(_LETTER.findall(text))),
            float(bool(_ENDS.search(text[-40:]))),
            float(bool(_CONCLUDES.search(before[-300:]))),
            len(_SENTENCE.findall(text)),
            _repeated(lines),
            *_held_against(asked, before, answer),
        ],
        dtype=np.float64,
    )


def _held_against(asked: Asked, before: str, answer: str) -> tuple[float, ...]:
    """How what stands before the verdict goes with the option that is chosen, and with the others."""
    place = asked.place(answer)
    if place is None:
        return (NAN,) * 7
    numbers, own, others = _numbers(before), NAN, NAN
    mentioned = NAN
    if asked.numbers[place]:
        target = asked.numbers[place][0]
        mentioned = float(any(_near(number, target) for number in numbers))
        if numbers:
            rest = [each[0] for n, each in enumerate(asked.numbers) if each and n != place]
            own, others = float(_near(numbers[-1], target)), float(any(_near(numbers[-1], each) for each in rest))
    words_before, text = _words(before), before.lower()
    shares = [len(words & words_before) / len(words) if words else NAN for words in asked.words]
    known = [share for n, share in enumerate(shares) if n != place and not math.isnan(share)]
    quoted = [len(option) > 1 and option.lower().rstrip(".") in text for option in asked.options]
    besides = float(sum(quoted) - quoted[place])
    return own, others, mentioned, shares[place], max(known, default=NAN), float(quoted[place]), besides


def _votes(
    asked: Asked, candidates: Sequence[Candidate], recruitment: Recruitment, readings: Sequence[Reading]
) -> list[list[float]]:
    """What a vote by log-odds knows of each answer, `[readings][OF_VOTE]`."""
    options, accuracies = len(asked.options) or OPEN, recruitment.accuracies
    givers = [list(dict.fromkeys(candidates[place].expert for place in reading.members)) for reading in readings]
    right = [[accuracies.get(expert, 0.0) for expert in each] for each in givers]
    supports = [sum(support(p, options) for p in each) for each in right]
    voters = [p for each in right for p in each]
    rows = []
    for n, own_support in enumerate(supports):
        rivals = supports[:n] + supports[n + 1 :]
        crowd = max((len(each) for m, each in enumerate(givers) if m != n), default=0)
        strongest = max(rivals, default=0.0)
        counts = [len(givers[n]), len(readings), len(voters)]
        expected = [max(right[n]), float(np.mean(list(accuracies.values()))), float(np.mean(voters))]
        rows.append([own_support, strongest, sum(rivals), *counts, own_support - strongest, *expected, crowd, options])
    return rows


def _words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(text))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number.replace(",", "").rstrip(".")) for number in _NUMBER.findall(text))


def _near(first: float, second: float) -> bool:
    return abs(first - second) <= _NEAR * max(abs(first), abs(second), 1e-12)


def _alike(words: Sequence[frozenset[str]], place: int) -> float:
    """How alike the words of an option and of the others are (mean Jaccard)."""
    own = words[place]
    return float(np.mean([len(own & each) / max(len(own | each), 1) for n, each in enumerate(words) if n != place]))


def _repeated(parts: Sequence[object]) -> float:
    """The share of parts that were there before."""
    return 1 - len(set(parts)) / len(parts) if parts else 0.0


def _mean(rows: Floats) -> Floats:
    """The mean of each column over what is known of it."""
    known = ~np.isnan(rows)
    counts = known.sum(axis=0)
    return np.where(counts > 0, np.where(known, rows, 0.0).sum(axis=0) / np.maximum(counts, 1), NAN)
