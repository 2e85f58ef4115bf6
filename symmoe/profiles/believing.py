"""How far the votes of a pool's experts can be believed, learned from questions that all of them answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.belief import VoteState, further
from symmoe.aggregation.extraction import extract
from symmoe.profiles.grading import Matrix
from symmoe.protocols import Recruiter
from symmoe.questions.options import options_of, support
from symmoe.scoring.expert_record import weight_of
from symmoe.types import Belief, Profiles, Query, Recruitment, Skills

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
    """How a vote stands after none of those recruited was heard, after the first, and so on, and whether its answer is
    right; and of each of them the support and the weight.
    """

    counted: tuple[Counted, ...]
    experts: tuple[tuple[float, float], ...]

    def end(self, quality: float, belief: Belief) -> Counted:
        """Where the vote ends under a dial."""
        asked = waves = 0
        while size := further(self.counted[asked][0], self.experts[asked:], quality, belief, waves):
            asked, waves = asked + size, waves + 1
        return self.counted[asked]


@dataclass(frozen=True, slots=True)
class Recruited:
    """The question at a place of a matrix, and who was recruited for it by the records of other questions."""

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
    """Up to `k` experts for each question of either half, by profiles that the other half gave.

    `profiled` makes profiles of the questions at some places. So nobody is judged on what made its record.
    """
    order = np.random.default_rng(seed).permutation(len(queries))
    halves = order[: len(order) // 2].tolist(), order[len(order) // 2 :].tolist()
    found: list[Recruited] = []
    for known, asked in (halves, halves[::-1]):
        if not known or not asked:
            return []
        some = [queries[place] for place in asked]
        recruited = recruiter(profiled(known)).recruit(some, [skills[place] for place in asked], k, seed)
        found += map(Recruited, asked, some, recruited)
    return found


def learn_belief(matrix: Matrix, recruited: Sequence[Recruited], k: int) -> Belief:
    """The belief under which votes of the first of those recruited, up to `k`, are right as often as it says."""
    return fit_belief([_course(matrix, each, k) for each in recruited])


def fit_belief(courses: Sequence[Course]) -> Belief:
    """The belief under which votes are likeliest to be right as often as they are (least log loss).

    How far experts err together is fitted to votes of every size, the corrections to these and to where votes end under
    a dial, which is with other answers: those that agree early, and those that never do.
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
    right = np.array([each for _, each in counted], dtype=np.float64)
    shares = _shares(counted, belief)
    logits = np.log(shares / (1 - shares))
    voters = np.array([standing.voters for standing, _ in counted])
    found: list[tuple[float, float]] = []
    for number in range(1, int(voters.max(initial=0)) + 1):
        among = voters == number
        before = found[-1] if found else (1.0, 0.0)
        found.append(_correction(logits[among], right[among]) if among.sum() >= LEAST else before)
    return tuple(found)


def _voted(counted: Sequence[Counted]) -> list[Counted]:
    """Those with an answer, spread over all if they are more than tell anything."""
    voted = [each for each in counted if each[0].voters]
    return voted[:: -(-len(voted) // _VOTES) or 1]


def _course(matrix: Matrix, each: Recruited, k: int) -> Course:
    place, recruitment = each.place, each.recruitment
    question = matrix.questions[place]
    asked = question.question
    options = options_of(asked)
    supports: dict[str, float] = {}
    weights: dict[str, float] = {}
    right: dict[str, bool] = {}
    counted: list[Counted] = [(VoteState((), (), 0, options), False)]
    experts = []
    for assignment in recruitment.assignments[:k]:
        expert = assignment.expert
        own = support(recruitment.accuracies.get(expert, 0.0), options), weight_of(asked, recruitment, expert)
        experts.append(own)
        said = extract(matrix.texts[expert][place], "auto", asked)  # as whoever asks has it read
        if said is None:
            counted.append(counted[-1])
            continue
        supports[said] = supports.get(said, 0.0) + own[0]
        weights[said] = weights.get(said, 0.0) + own[1]
        right[said] = matrix.right[expert][place]
        first = sorted(weights, key=lambda answer: -weights[answer])
        heard = counted[-1][0].voters + 1
        stands = VoteState(tuple(supports[a] for a in first), tuple(weights[a] for a in first), heard, options)
        counted.append((stands, right[first[0]]))
    return Course(tuple(counted), tuple(experts))


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
