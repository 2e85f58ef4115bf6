"""How far the votes of a pool's experts can be believed, learned from questions that all of them answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.belief import Standing, options_of, support
from symmoe.aggregation.extraction import extract
from symmoe.profiles.grading import Matrix
from symmoe.profiles.marking import kind_of
from symmoe.protocols import Recruiter
from symmoe.scoring.evidence import weight_of
from symmoe.types import Belief, Profiles, Query, Recruitment, Skills

MOST = 8
"""Votes of so many experts are learned from; of more, those are told apart no further."""
LEAST = 50
"""Votes of one number of voters that are fewer say nothing of it."""
_OVERLAPS = np.linspace(0, 1, 21)
_VOTES = 20_000
"""More votes tell no more."""
_PRIOR = 20.0
"""As so many votes the belief that log-odds are right as they are weighs."""
Floats = NDArray[np.float64]
Counted = tuple[Standing, bool]
"""How a vote stands, and whether its leading answer is right."""


def learn_belief(
    matrix: Matrix,
    queries: Sequence[Query],
    skills: Sequence[Skills],
    profiled: Callable[[Sequence[int]], Profiles],
    recruiter: Callable[[Profiles], Recruiter],
    seed: int,
) -> Belief:
    """The belief under which the votes of those recruited first, second and so on are right as often as it says.

    Each half of the questions is voted on by experts whose profiles the other half gave (`profiled` of its places), so
    that nobody is judged on what made its record.
    """
    order = np.random.default_rng(seed).permutation(len(queries))
    halves = order[: len(order) // 2].tolist(), order[len(order) // 2 :].tolist()
    counted: list[Counted] = []
    for known, asked in (halves, halves[::-1]):
        if not known or not asked:
            return Belief()
        some = [queries[place] for place in asked]
        recruited = recruiter(profiled(known)).recruit(some, [skills[place] for place in asked], MOST, seed)
        for place, recruitment in zip(asked, recruited, strict=True):
            counted += _votes(matrix, place, recruitment)
    return fit_belief(counted)


def fit_belief(counted: Sequence[Counted]) -> Belief:
    """The belief under which votes are likeliest to be right as often as they are (least log loss)."""
    voted = [(standing, right) for standing, right in counted if standing.voters]
    voted = voted[:: -(-len(voted) // _VOTES) or 1]
    if len(voted) < LEAST:
        return Belief()
    right = np.array([each for _, each in voted], dtype=np.float64)
    shares = {float(overlap): _shares(voted, Belief(float(overlap))) for overlap in _OVERLAPS}
    overlap = min(shares, key=lambda each: _loss(shares[each], right))
    voters = np.array([min(standing.voters, MOST) for standing, _ in voted])
    logits = np.log(shares[overlap] / (1 - shares[overlap]))
    corrections: list[tuple[float, float]] = []
    for number in range(1, int(voters.max()) + 1):
        among = voters == number
        enough = among.sum() >= LEAST
        last = corrections[-1] if corrections else (1.0, 0.0)
        corrections.append(_correction(logits[among], right[among]) if enough else last)
    return Belief(round(overlap, 4), tuple(corrections))


def _votes(matrix: Matrix, place: int, recruitment: Recruitment) -> Iterator[Counted]:
    """The votes on one question of the first of those recruited, of the first two, and so on."""
    question = matrix.questions[place]
    kind, asked = kind_of(question), question.question
    options = options_of(asked)
    supports: dict[str, float] = {}
    weights: dict[str, float] = {}
    right: dict[str, bool] = {}
    voters = 0
    for assignment in recruitment.assignments:
        expert = assignment.expert
        said = extract(matrix.texts[expert][place], kind, asked)
        if said is None:
            continue
        voters += 1
        supports[said] = supports.get(said, 0.0) + support(recruitment.accuracies.get(expert, 0.0), options)
        weights[said] = weights.get(said, 0.0) + weight_of(recruitment, expert)
        right[said] = matrix.right[expert][place]
        first = sorted(weights, key=lambda answer: -weights[answer])
        stands = Standing(tuple(supports[a] for a in first), tuple(weights[a] for a in first), voters, options)
        yield stands, right[first[0]]


def _shares(voted: Sequence[Counted], belief: Belief) -> Floats:
    return np.array([standing.posterior(belief) for standing, _ in voted])


def _loss(shares: Floats, right: Floats) -> float:
    return float(-(right * np.log(shares) + (1 - right) * np.log(1 - shares)).mean())


def _correction(logits: Floats, right: Floats) -> tuple[float, float]:
    """Slope and offset of a logistic regression that is drawn to 1 and 0 (Platt 1999)."""
    from scipy.optimize import minimize

    def loss(found: Floats) -> float:
        told = found[0] * logits + found[1]
        return float(np.logaddexp(0, told).sum() - right @ told + _PRIOR * ((found[0] - 1) ** 2 + found[1] ** 2))

    slope, offset = minimize(loss, (1.0, 0.0), method="L-BFGS-B", bounds=((0, None), (None, None))).x
    return round(float(slope), 4), round(float(offset), 4)
