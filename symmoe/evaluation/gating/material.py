"""What a gate is fitted on: the distinct answers to validation questions, read, rated and paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.evaluation.gating.field import Field, assignment_of
from symmoe.evaluation.gating.ratings import OBJECTIVES, rate
from symmoe.gating.heads import Floats
from symmoe.gating.small import PreferredAnswers, RatedAnswers
from symmoe.gating.states import HiddenStates
from symmoe.types import Assignment, Candidate, Question

LEAST_RATED = 30
"""An objective on which fewer answers are rated, or all are rated alike, is left out."""


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
                found[assignment_of(candidate)] = int(place[at])
    return found
