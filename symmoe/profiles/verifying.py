"""Training a verifier on what all experts of a pool answered to questions with known answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.reading import UNREAD, read
from symmoe.aggregation.verifier import Asked, Verifying, features, signs_of
from symmoe.profiles.believing import Recruited
from symmoe.profiles.grading import Matrix, paired
from symmoe.scoring.expert_record import weigh_by_records
from symmoe.types import Candidate, Trees

Floats = NDArray[np.float64]
LEAST = 200
"""From fewer questions no verifier is trained."""
SIZES = (1, 2, 3, 5, 8)
"""So many of those recruited first are taken to have answered: a verifier judges while answers still come in."""

GROWTH: dict[str, Any] = {
    "learning_rate": 0.06,
    "max_iter": 150,
    "max_leaf_nodes": 12,
    "min_samples_leaf": 60,
    "l2_regularization": 5.0,
    "early_stopping": False,
}
"""How trees are grown: scikit-learn's names."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Distinct answers `[n]`: what is known of each, whether it is right, what supports it in a vote, whose question
    it answers, and how many had answered.
    """

    known: Floats
    right: NDArray[np.bool_]
    support: Floats
    question: NDArray[np.intp]
    size: NDArray[np.intp]

    def of(self, chosen: NDArray[np.bool_]) -> _Rows:
        return _Rows(
            self.known[chosen], self.right[chosen], self.support[chosen], self.question[chosen], self.size[chosen]
        )


def learn_verifier(matrix: Matrix, recruited: Sequence[Recruited], k: int, seed: int) -> Trees | None:
    """A verifier, if on halves of the questions that it was not trained on it chooses better answers among those of
    the first k recruited than a vote by log-odds does, the 95 % interval above zero; else None.
    """
    if len(recruited) < LEAST:
        return None
    experts = tuple(sorted(matrix.texts))
    rows = _rows(matrix, recruited, experts, sorted({*SIZES, k}))
    half = np.random.default_rng(seed).permutation(len(recruited)) % 2
    verified, voted = np.zeros((2, len(recruited)))
    for part in (0, 1):
        there = half[rows.question] == part
        trees = _grown(rows.of(there), experts, seed)
        judged = rows.of(~there & (rows.size == k))
        if trees is None:
            return None
        verified += _chosen(judged, Verifying(trees).probabilities(judged.known), len(recruited))
        voted += _chosen(judged, judged.support, len(recruited))
    return _grown(rows, experts, seed) if paired(verified, voted, seed)["ci95"][0] > 0 else None


def _rows(matrix: Matrix, recruited: Sequence[Recruited], experts: Sequence[str], sizes: Sequence[int]) -> _Rows:
    found = [
        part for number, each in enumerate(recruited) for part in _of_question(matrix, each, number, experts, sizes)
    ]
    known, right, support, question, size = zip(*found, strict=True)
    counts = [len(part) for part in right]
    return _Rows(
        np.concatenate(known),
        np.concatenate(right),
        np.concatenate(support),
        np.repeat(question, counts),
        np.repeat(size, counts),
    )


def _of_question(
    matrix: Matrix, each: Recruited, number: int, experts: Sequence[str], sizes: Sequence[int]
) -> Iterator[tuple[Floats, list[bool], list[float], int, int]]:
    """The distinct answers of the first few recruited, for each number of them."""
    query, recruitment = each.query, each.recruitment
    everyone = [
        Candidate(query.id, a.expert, 0, matrix.texts[a.expert][each.place], "stop", 0, 0, "resident")
        for a in recruitment.assignments[: max(sizes)]
    ]
    asked, right = Asked.of(query.text), [matrix.right[c.expert][each.place] for c in everyone]
    said = [reading for reading in read(query, everyone) if reading.answer != UNREAD]
    signs = {
        place: signs_of(asked, everyone[place].text, reading.answer) for reading in said for place in reading.members
    }
    weights = [verdict.weight for verdict in weigh_by_records(query, everyone, recruitment)]
    for size in sizes:
        if size > len(everyone):
            break
        some = everyone[:size]
        readings = [reading for reading in read(query, some) if reading.answer != UNREAD]
        if readings:
            known = features(query, some, recruitment, readings, experts, signs)
            supports = [sum(weights[place] for place in reading.members) for reading in readings]
            yield known, [right[reading.members[0]] for reading in readings], supports, number, size


def _chosen(rows: _Rows, scores: Floats, questions: int) -> Floats:
    """1 for every question whose answer of the highest score is right, the first of equals, else 0."""
    right, best = np.zeros(questions), np.full(questions, -np.inf)
    for question, score, is_right in zip(rows.question, scores, rows.right, strict=True):
        if score > best[question]:
            best[question], right[question] = score, float(is_right)
    return right


def _grown(rows: _Rows, experts: tuple[str, ...], seed: int) -> Trees | None:
    """Trees grown on rows; None where all are right or all are wrong."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if rows.right.all() or not rows.right.any():
        return None
    with np.errstate(invalid="ignore"):
        telling = [n for n, column in enumerate(rows.known.T) if len(np.unique(column[~np.isnan(column)])) > 1]
    grown = HistGradientBoostingClassifier(**GROWTH, random_state=seed)
    grown.fit(rows.known[:, telling], rows.right)  # a constant column breaks its binning
    return _columns(grown, telling, experts)


def _columns(grown: Any, telling: Sequence[int], experts: tuple[str, ...]) -> Trees:
    nodes = [each[0].nodes for each in grown._predictors]  # scikit-learn has no format of its own but pickles
    starts = np.cumsum([0, *map(len, nodes)])
    leaf = np.concatenate([each["is_leaf"] for each in nodes]).astype(bool)
    columns = np.array(telling)[np.concatenate([each["feature_idx"] for each in nodes])]
    shift = np.repeat(starts[:-1], np.diff(starts))
    return Trees(
        experts,
        float(np.ravel(grown._baseline_prediction)[0]),
        tuple(starts[:-1].tolist()),
        tuple(np.where(leaf, -1, columns).tolist()),
        tuple(np.where(leaf, 0.0, np.concatenate([each["num_threshold"] for each in nodes])).tolist()),
        tuple(np.concatenate([each["missing_go_to_left"] for each in nodes]).astype(int).tolist()),
        tuple(np.where(leaf, 0, np.concatenate([each["left"] for each in nodes]) + shift).tolist()),
        tuple(np.where(leaf, 0, np.concatenate([each["right"] for each in nodes]) + shift).tolist()),
        tuple(np.round(np.where(leaf, np.concatenate([each["value"] for each in nodes]), 0.0), 6).tolist()),
    )
