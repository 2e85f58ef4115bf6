"""Calibrates how far the votes of a pool's experts can be believed, and trains a verifier of their answers.

Both are learned from questions with known answers that all experts answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.extraction import extract
from symmoe.aggregation.reading import UNREAD, read
from symmoe.aggregation.verifier import Asked, Verifying, features, signs_of
from symmoe.aggregation.vote import VoteState, next_wave
from symmoe.profiles.marking import Matrix, paired
from symmoe.protocols import Recruiter
from symmoe.questions.families import options_of, support
from symmoe.scoring.weighing import weigh_by_records, weights_of
from symmoe.types import Belief, Candidate, Profiles, Query, Recruitment, Skills, Trees

LEAST = 50
"""Votes of one number of voters that are fewer say nothing of it."""
_OVERLAPS = np.linspace(0, 1, 21)
_VOTES = 20_000
"""More votes tell no more."""
_PRIOR = 20.0
"""As so many votes the belief that log-odds are right as they are weighs."""
Floats = NDArray[np.float64]
DIALS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Where votes end under these, they are to be right as often as believed."""
Counted = tuple[VoteState, bool]
"""How a vote stands, and whether its leading answer is right."""


@dataclass(frozen=True, slots=True)
class Course:
    """The state of a vote after none, one, two, … of its recruits, and whether each leading answer is right.

    Also the support and the weight of each recruit.
    """

    counted: tuple[Counted, ...]
    experts: tuple[tuple[float, float], ...]

    def end(self, quality: float, belief: Belief) -> Counted:
        """The state in which the vote ends for a given quality dial."""
        asked = waves = 0
        while size := next_wave(self.counted[asked][0], self.experts[asked:], quality, belief, waves):
            asked, waves = asked + size, waves + 1
        return self.counted[asked]


@dataclass(frozen=True, slots=True)
class Recruited:
    """The index of a question in a matrix, and its recruits by the records of other questions."""

    place: int
    query: Query
    recruitment: Recruitment


def recruit_by_halves(
    queries: Sequence[Query],
    skills: Sequence[Skills],
    profiled: Callable[[Sequence[int]], Profiles],
    recruiter: Callable[[Profiles], Recruiter],
    k: int,
    seed: int,
) -> list[Recruited]:
    """Up to `k` experts for each question of either half, recruited by profiles built from the other half.

    `profiled` makes profiles from the questions at some indices. So nobody is judged on what made its record.
    """
    order = np.random.default_rng(seed).permutation(len(queries))
    halves = order[: len(order) // 2].tolist(), order[len(order) // 2 :].tolist()
    found: list[Recruited] = []
    for known, held_out in (halves, halves[::-1]):
        if not known or not held_out:
            return []
        held_out_queries = [queries[place] for place in held_out]
        recruited = recruiter(profiled(known)).recruit(held_out_queries, [skills[place] for place in held_out], k, seed)
        found += map(Recruited, held_out, held_out_queries, recruited)
    return found


def learn_belief(matrix: Matrix, recruited: Sequence[Recruited], k: int) -> Belief:
    """The belief that best calibrates votes of the first recruits, up to `k`."""
    return fit_belief([_course(matrix, each, k) for each in recruited])


def fit_belief(courses: Sequence[Course]) -> Belief:
    """The belief that minimises the log loss of predicting whether votes are right.

    The overlap of experts' errors is fitted to votes of every size, and the corrections to these and to votes stopped
    by the quality dial, whose answers differ: those that agree early, and those that never do.
    """
    counted = _voted([each for course in courses for each in course.counted])
    if len(counted) < LEAST:
        return Belief()
    right = np.array([each for _, each in counted], dtype=np.float64)
    overlap = min(_OVERLAPS.tolist(), key=lambda each: _loss(_shares(counted, Belief(each)), right))
    first = Belief(round(overlap, 4), _corrections(counted, Belief(overlap)))
    ends = _voted([course.end(dial, first) for dial in DIALS for course in courses])
    return replace(first, corrections=_corrections([*counted, *ends], Belief(overlap)))


def _corrections(counted: Sequence[Counted], belief: Belief) -> tuple[tuple[float, float], ...]:
    right = np.array([is_right for _, is_right in counted], dtype=np.float64)
    shares = _shares(counted, belief)
    logits = np.log(shares / (1 - shares))
    voters = np.array([state.voters for state, _ in counted])
    corrections: list[tuple[float, float]] = []
    for number in range(1, int(voters.max(initial=0)) + 1):
        mask = voters == number
        before = corrections[-1] if corrections else (1.0, 0.0)
        corrections.append(_correction(logits[mask], right[mask]) if mask.sum() >= LEAST else before)
    return tuple(corrections)


def _voted(counted: Sequence[Counted]) -> list[Counted]:
    """Those with an answer, spread over all if they are more than tell anything."""
    voted = [each for each in counted if each[0].voters]
    return voted[:: -(-len(voted) // _VOTES) or 1]


def _course(matrix: Matrix, each: Recruited, k: int) -> Course:
    place, recruitment = each.place, each.recruitment
    question = matrix.questions[place]
    text = question.question
    options = options_of(text)
    supports: dict[str, float] = {}
    weights: dict[str, float] = {}
    right: dict[str, bool] = {}
    counted: list[Counted] = [(VoteState((), (), 0, options), False)]
    experts = []
    chosen = [assignment.expert for assignment in recruitment.assignments[:k]]
    for expert, weight in zip(chosen, weights_of(text, recruitment, chosen), strict=True):
        vote = support(recruitment.accuracies.get(expert, 0.0), options), weight
        experts.append(vote)
        extracted = extract(matrix.texts[expert][place], "auto", text)  # as whoever asks has it read
        if extracted is None:
            counted.append(counted[-1])
            continue
        supports[extracted] = supports.get(extracted, 0.0) + vote[0]
        weights[extracted] = weights.get(extracted, 0.0) + vote[1]
        right[extracted] = matrix.right[expert][place]
        first = sorted(weights, key=lambda answer: -weights[answer])
        voters = counted[-1][0].voters + 1
        state = VoteState(tuple(supports[a] for a in first), tuple(weights[a] for a in first), voters, options)
        counted.append((state, right[first[0]]))
    return Course(tuple(counted), tuple(experts))


def _shares(voted: Sequence[Counted], belief: Belief) -> Floats:
    return np.array([state.posterior(belief) for state, _ in voted])


def _loss(shares: Floats, right: Floats) -> float:
    return float(-(right * np.log(shares) + (1 - right) * np.log(1 - shares)).mean())


def _correction(logits: Floats, right: Floats) -> tuple[float, float]:
    """Slope and offset of a logistic regression that is drawn to 1 and 0 (Platt 1999)."""
    from scipy.optimize import minimize

    def loss(parameters: Floats) -> float:
        adjusted = parameters[0] * logits + parameters[1]
        return float(
            np.logaddexp(0, adjusted).sum()
            - right @ adjusted
            + _PRIOR * ((parameters[0] - 1) ** 2 + parameters[1] ** 2)
        )

    slope, offset = minimize(loss, (1.0, 0.0), method="L-BFGS-B", bounds=((0, None), (None, None))).x
    return round(float(slope), 4), round(float(offset), 4)


LEAST_TO_TRAIN = 200
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
    """A verifier, if on questions it was not trained on it chooses better than a vote by log-odds; otherwise None.

    Compared by halves, on answers of the first k recruits: the 95 % interval of the gain must be above zero.
    """
    if len(recruited) < LEAST_TO_TRAIN:
        return None
    experts = tuple(sorted(matrix.texts))
    rows = _rows(matrix, recruited, experts, sorted({*SIZES, k}))
    half = np.random.default_rng(seed).permutation(len(recruited)) % 2
    verified, voted = np.zeros((2, len(recruited)))
    for part in (0, 1):
        in_part = half[rows.question] == part
        trees = _grown(rows.of(in_part), experts, seed)
        judged = rows.of(~in_part & (rows.size == k))
        if trees is None:
            return None
        verified += _chosen(judged, Verifying(trees).probabilities(judged.known), len(recruited))
        voted += _chosen(judged, judged.support, len(recruited))
    return _grown(rows, experts, seed) if paired(verified, voted, seed)["ci95"][0] > 0 else None


def _rows(matrix: Matrix, recruited: Sequence[Recruited], experts: Sequence[str], sizes: Sequence[int]) -> _Rows:
    rows = [
        part for number, each in enumerate(recruited) for part in _of_question(matrix, each, number, experts, sizes)
    ]
    known, right, support, question, size = zip(*rows, strict=True)
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
    all_readings = [reading for reading in read(query, everyone) if reading.answer != UNREAD]
    signs = {
        place: signs_of(asked, everyone[place].text, reading.answer)
        for reading in all_readings
        for place in reading.members
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
        informative = [n for n, column in enumerate(rows.known.T) if len(np.unique(column[~np.isnan(column)])) > 1]
    grown = HistGradientBoostingClassifier(**GROWTH, random_state=seed)
    grown.fit(rows.known[:, informative], rows.right)  # a constant column breaks its binning
    return _columns(grown, informative, experts)


def _columns(grown: Any, informative: Sequence[int], experts: tuple[str, ...]) -> Trees:
    nodes = [each[0].nodes for each in grown._predictors]  # scikit-learn has no format of its own but pickles
    starts = np.cumsum([0, *map(len, nodes)])
    leaf = np.concatenate([each["is_leaf"] for each in nodes]).astype(bool)
    columns = np.array(informative)[np.concatenate([each["feature_idx"] for each in nodes])]
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
