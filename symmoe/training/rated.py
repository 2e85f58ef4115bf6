"""What a scorer is fitted on: the distinct answers to validation questions, rated, read and paired.

No person and no larger model rates anything: ratings are made from the known answers and from what the experts wrote
beside each other. What cannot be told of an answer is NaN, and the fit skips it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.equivalence import equal
from symmoe.aggregation.extraction import extract
from symmoe.profiles.marking import is_right
from symmoe.routing.facets import SUSPECT_WORDS, language_of
from symmoe.scoring.heads import Floats
from symmoe.scoring.small import PreferredAnswers, RatedAnswers
from symmoe.scoring.states import HiddenStates
from symmoe.training.answers import Field
from symmoe.types import Assignment, Candidate, Query, Question

OBJECTIVES = ("correctness", "format", "brevity", "agreement", "stability", "language")
"""What is rated, in the order of the columns; see `rate`."""
_TOKEN = re.compile(r"\d+|[^\W\d_]+|\S")
CHUNK = 256
LEAST_RATED = 30
"""An objective on which fewer answers are rated, or all are rated alike, is left out."""


def rate(question: Question, candidates: Sequence[Candidate]) -> Floats:
    """Ratings `[n, objectives]` of all answers to one question, each between 0 and 1.

    `correctness`: the answer is right. `format`: how alike are the kinds of tokens in it and in the known answer.
    `brevity`: the known answer's length over its own, at most 1. `agreement`: the share of the other experts whose
    first answer says the same. `stability`: the share of the same expert's other draws that do. `language`: it is in
    the known answer's language, told only of texts of some length.
    """
    said = [extract(candidate.text, "auto", question.question) for candidate in candidates]
    rows = [
        (
            float(is_right(candidate.text, question)),
            format_likeness(candidate.text, question.answer),
            min(1.0, len(question.answer) / max(len(candidate.text), 1)),
            _share(said[place], [s for s, c in zip(said, candidates, strict=True) if _other(c, candidate)]),
            _share(said[place], [s for s, c in zip(said, candidates, strict=True) if _redrawn(c, candidate)]),
            _same_language(candidate.text, question.answer),
        )
        for place, candidate in enumerate(candidates)
    ]
    return np.array(rows, dtype=np.float32).reshape(len(candidates), len(OBJECTIVES))


def format_likeness(text: str, wanted: str) -> float:
    """How alike the kinds of tokens in two texts are (Jaccard): JSON, numbers, words by their case, each mark.

    >>> format_likeness("3, 1, 2", "1, 2, 3"), format_likeness("It is 3", "3")
    (1.0, 0.3333333333333333)
    """
    first, second = _kinds(text), _kinds(wanted)
    return len(first & second) / len(first | second) if first | second else 1.0


def _kinds(text: str) -> set[str]:
    try:
        if isinstance(json.loads(text), dict | list):
            return {"json"}
    except (ValueError, RecursionError):
        pass
    return {_kind(token) for token in _TOKEN.findall(text)}


def _kind(token: str) -> str:
    if token.isdecimal():
        return "number"
    if not token[0].isalpha():
        return token
    return "upper" if token.isupper() else "capitalised" if token[0].isupper() else "lower"


def _other(candidate: Candidate, than: Candidate) -> bool:
    return candidate.expert != than.expert and candidate.slot == 0


def _redrawn(candidate: Candidate, of: Candidate) -> bool:
    return candidate.expert == of.expert and candidate.slot != of.slot


def _share(said: str | None, others: Sequence[str | None]) -> float:
    """The share of `others` that say the same; an answer that cannot be read agrees with none."""
    if not others:
        return float("nan")
    return sum(said is not None and other is not None and equal(said, other, "auto") for other in others) / len(others)


def _same_language(text: str, wanted: str) -> float:
    if min(len(text.split()), len(wanted.split())) < SUSPECT_WORDS:
        return float("nan")
    return float(language_of(text) == language_of(wanted))


class KeptStates:
    """Reads answers in chunks, each a file in a folder once it is read; a chunk that stands there is not read again.

    A chunk is the same however often reading was interrupted, and so are its states. Files are named by what was read
    and by `reader`, which names the model.
    """

    def __init__(
        self, states: HiddenStates, folder: Path, reader: str, told: Callable[[str], None] = lambda now: None
    ) -> None:
        self._states, self._folder, self._reader, self._told = states, folder, reader, told

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt and answer states, a row for each candidate of each query, in order."""
        rows = [(query, text) for query, row in zip(queries, candidates, strict=True) for text in row]
        chunks = []
        for start in range(0, len(rows), CHUNK):
            self._told(f"{self._reader}: {start} of {len(rows)} answers read")
            chunks.append(self._chunk(rows[start : start + CHUNK]))
        prompts, answers = zip(*chunks, strict=True)
        return np.concatenate(prompts), np.concatenate(answers)

    def _chunk(self, rows: Sequence[tuple[Query, str]]) -> tuple[Floats, Floats]:
        from safetensors.numpy import load_file, save_file

        told = repr((self._reader, [(query.messages, text) for query, text in rows]))
        file = self._folder / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.safetensors"
        if file.is_file():
            kept = load_file(file)
            return kept["prompts"], kept["answers"]
        prompts, answers = self._states([query for query, _ in rows], [[text] for _, text in rows])
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file({"prompts": np.ascontiguousarray(prompts), "answers": np.ascontiguousarray(answers)}, partial)
        partial.rename(file)
        return prompts, answers


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The `n` distinct answers to all questions: states, ratings `[n, objectives]`, which are right, their questions.

    `of` says where the answer of each candidate stands; one that cannot be read stands nowhere. There are `asked`
    questions, those without an answer included.
    """

    objectives: tuple[str, ...]
    rated: RatedAnswers
    right: NDArray[np.bool_]
    question: NDArray[np.intp]
    of: Mapping[Assignment, int]
    asked: int

    def within(self, questions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which answers are to some of the questions, `[n]`."""
        return np.asarray(questions[self.question])

    def take(self, chosen: NDArray[np.bool_]) -> RatedAnswers:
        """Some of the rated answers."""
        r = self.rated
        return RatedAnswers(r.prompts[chosen], r.answers[chosen], r.ratings[chosen], r.lengths[chosen])

    def pairs(self, questions: NDArray[np.bool_], most: int, seed: int) -> PreferredAnswers:
        """Right answers beside wrong ones to the same question, at most `most` pairs of each question."""
        rng = np.random.default_rng(seed)
        better, worse = [np.empty(0, dtype=np.intp)], [np.empty(0, dtype=np.intp)]
        for place in np.flatnonzero(questions):
            own = self.question == place
            first, second = np.meshgrid(np.flatnonzero(own & self.right), np.flatnonzero(own & ~self.right))
            kept = rng.permutation(first.size)[:most]
            better.append(first.ravel()[kept])
            worse.append(second.ravel()[kept])
        chosen, rejected = np.concatenate(better), np.concatenate(worse)
        answers = self.rated.answers
        return PreferredAnswers(self.rated.prompts[chosen], answers[chosen], answers[rejected])


def material(field: Field, states: HiddenStates) -> Material:
    """Read and rate what stands in a field. Equal texts are read once, and their ratings averaged."""
    texts = [list(dict.fromkeys(c.text for c in row if c.text.strip())) for row in field.candidates]
    rows = list(zip(field.questions, field.candidates, texts, strict=True))
    prompts, answers = states(field.queries, texts)
    ratings = np.concatenate([_ratings(*row) for row in rows])
    lengths = np.array([len(text) for row in texts for text in row], dtype=np.float32)
    question = np.repeat(np.arange(len(texts)), [len(row) for row in texts])
    readable = np.asarray(np.isfinite(np.hstack([prompts, answers])).all(axis=1))
    kept = [place for place in range(len(OBJECTIVES)) if _tells(ratings[readable, place])]
    rated = RatedAnswers(prompts[readable], answers[readable], ratings[readable][:, kept], lengths[readable])
    right = ratings[readable, OBJECTIVES.index("correctness")] > 0.5
    names = tuple(OBJECTIVES[place] for place in kept)
    return Material(names, rated, right, question[readable], _places(field, texts, readable), len(texts))


def _ratings(question: Question, candidates: Sequence[Candidate], texts: Sequence[str]) -> Floats:
    """Ratings `[len(texts), objectives]`; what is NaN for some who wrote a text is the mean of the others."""
    ratings = rate(question, candidates)
    rows = [ratings[[place for place, c in enumerate(candidates) if c.text == text]] for text in texts]
    known = [np.isfinite(row) for row in rows]
    sums = [np.where(told, row, 0.0).sum(axis=0) for row, told in zip(rows, known, strict=True)]
    counts = [np.where(told.any(axis=0), told.sum(axis=0), np.nan) for told in known]
    return np.array([s / n for s, n in zip(sums, counts, strict=True)], dtype=np.float32).reshape(-1, len(OBJECTIVES))


def _tells(column: Floats) -> bool:
    told = column[np.isfinite(column)]
    return len(told) >= LEAST_RATED and float(np.ptp(told)) > 0


def _places(field: Field, texts: Sequence[Sequence[str]], readable: NDArray[np.bool_]) -> dict[Assignment, int]:
    place = np.cumsum(readable) - 1
    starts = np.cumsum([0, *map(len, texts)])
    found: dict[Assignment, int] = {}
    for start, known, row in zip(starts, texts, field.candidates, strict=False):
        for candidate in row:
            at = start + known.index(candidate.text) if candidate.text in known else None
            if at is not None and readable[at]:
                found[candidate.assignment] = int(place[at])
    return found
