"""Tallies of right and wrong answers as arrays, and the posterior accuracy of every expert on every skill.

A skill's posterior is a beta distribution whose prior is that of its parent: topic, format in a language, format, all
formats. Few answers move it little, many determine it (empirical Bayes, partial pooling).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from symmoe.routing.facets import is_format, parent_of
from symmoe.types import Profiles, Skills, Tally

Floats = NDArray[np.float32]
_ROWS = 2048
SAMPLED = 2000
"""From how many topics strengths and temperature are estimated."""

FACET_STRENGTH = 50.0
"""A facet's prior counts as this many answers."""
TOPIC_STRENGTH = (1.0, 100.0)
"""Bounds of how many answers a topic's prior counts as; between them it is estimated from the spread of topics."""


@dataclass(frozen=True, slots=True)
class Tallies:
    """Counts of answers, `right` and `asked`, each `[skills, experts]`; `parents[i]` is the row of i's parent or −1.

    `overall` is each expert's accuracy over everything, 0.5 where it was asked nothing, and `tokens` the mean length of
    its answers, both `[experts]`.
    """

    skills: tuple[str, ...]
    experts: tuple[str, ...]
    right: Floats
    asked: Floats
    parents: NDArray[np.int32]
    topics: NDArray[np.bool_]
    overall: Floats
    tokens: Floats


@dataclass(frozen=True, slots=True)
class Posterior:
    """Beta posteriors: `mean` is `[skills + 1, experts]`, and `worth` `[skills]` the answers that each prior counts as.

    The last row of `mean`, row −1, is what is expected of each expert on an unseen format. The strength of a posterior
    (the sum of its two parameters) is the number of questions its expert was asked plus the worth of its prior.
    """

    rows: dict[str, int]
    mean: Floats
    worth: Floats

    @property
    def anywhere(self) -> Floats:
        """The accuracy expected of each expert on an unseen format, `[experts]`."""
        return np.asarray(self.mean[-1])


@dataclass(frozen=True, slots=True)
class Judgement:
    """Every expert's expected accuracy, `[queries, experts]`, and which queries are unlike everything on record."""

    values: Floats
    strange: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Account:
    """The pieces of evidence behind a judgement of one query with their weights, heaviest first.

    `strengths` `[experts]` is the number of answers that each expert's expected accuracy is worth, and `tallies` what
    each expert earned on each piece.
    """

    weights: Mapping[str, float]
    strengths: NDArray[np.float64]
    tallies: Sequence[Mapping[str, Tally]]


class Evidence(Protocol):
    """Judges experts by their records. `unlike` and `instead` say in words what is strange and how it is judged."""

    experts: tuple[str, ...]
    tokens: Floats
    temperature: float
    unlike: str
    instead: str

    def judge(self, skills: Sequence[Skills]) -> Judgement:
        """The expected accuracy of every expert on every query."""
        ...

    def account(self, skills: Skills) -> Account:
        """The evidence behind the judgement of one query."""
        ...


def tallies_of(profiles: Profiles) -> Tallies:
    """Profiles as arrays, borrowed pseudo-counts included."""
    experts = tuple(profiles.experts)
    names = dict.fromkeys(skill for p in profiles.experts.values() for skill in (*p.skills, *p.borrowed))
    rows = {skill: row for row, skill in enumerate(names)}
    right, asked = np.zeros((2, len(rows), len(experts)), dtype=np.float32)
    for column, profile in enumerate(profiles.experts.values()):
        for tallies in (profile.skills, profile.borrowed):
            for skill, tally in tallies.items():
                right[rows[skill], column] += tally.right
                asked[rows[skill], column] += tally.asked
    overall = [p.overall.right / p.overall.asked if p.overall.asked else 0.5 for p in profiles.experts.values()]
    return Tallies(
        tuple(rows),
        experts,
        right,
        asked,
        np.array([rows.get(_parent(skill, profiles), -1) for skill in rows], dtype=np.int32),
        np.array([skill in profiles.parents for skill in rows], dtype=np.bool_),
        np.array(overall, dtype=np.float32),
        np.array([profile.tokens for profile in profiles.experts.values()], dtype=np.float32),
    )


def posterior_of(tallies: Tallies) -> Posterior:
    """The posterior of every expert on every skill, parents before children."""
    mean = np.empty((len(tallies.skills) + 1, len(tallies.experts)), dtype=np.float32)
    mean[-1] = _anywhere(tallies)
    worth = np.where(tallies.topics, _topic_strength(tallies), FACET_STRENGTH).astype(np.float32)
    for level in _levels(tallies.parents):
        for start in range(0, len(level), _ROWS):
            rows = level[start : start + _ROWS]
            prior, weight = mean[tallies.parents[rows]], worth[rows, None]  # the parent of a root is row −1
            mean[rows] = (tallies.right[rows] + weight * prior) / (tallies.asked[rows] + weight)
    return Posterior({skill: row for row, skill in enumerate(tallies.skills)}, mean, worth)


def temperature_of(right: NDArray[Any], means: NDArray[Any]) -> float:
    """The softmax temperature that makes experts' shares best predict who answers rightly.

    It minimises the cross-entropy between each expert's share of the right answers, `right`, and a softmax of `means`;
    both are `[n, experts]`.
    """
    right, means = right.astype(np.float64), means.astype(np.float64)
    if right.shape[1] < 2 or not right.sum():
        return 1.0

    def loss(log_temperature: float) -> float:
        logits = means / np.exp(log_temperature)
        logits -= logits.max(axis=1, keepdims=True)
        log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-(right * log_shares).sum() / right.sum())

    return math.exp(_lowest(loss, math.log(1e-3), math.log(10.0)))


def _lowest(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one minimum is lowest, to 1e-5, by golden sections.

    Every command that recruits comes here, and importing scipy.optimize for it was two fifths of its start.
    """
    while high - low > 1e-5:
        reach = (math.sqrt(5) - 1) / 2 * (high - low)
        if loss(high - reach) < loss(low + reach):
            high = low + reach
        else:
            low = high - reach
    return (low + high) / 2


def interval(mean: float, strength: float, level: float = 0.95) -> tuple[float, float]:
    """The central interval, holding `level` of the mass, of a beta distribution with that mean and strength."""
    from scipy.special import betaincinv  # scipy.stats takes a second longer to import

    inside = min(max(mean, 1e-6), 1 - 1e-6)
    low, high = betaincinv(inside * strength, (1 - inside) * strength, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), mean), max(float(high), mean)


def _parent(skill: str, profiles: Profiles) -> str:
    """A topic's parent is the facet of its questions; a facet's own is the more general one."""
    return profiles.parents[skill] if skill in profiles.parents else parent_of(skill)


def _levels(parents: NDArray[np.int32]) -> Sequence[NDArray[np.intp]]:
    """Rows by depth, so that a parent is done before its children."""
    depth = np.zeros(len(parents), dtype=np.int32)
    above = parents.copy()
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    return [np.flatnonzero(depth == level) for level in range(int(depth.max(initial=-1)) + 1)]


def _anywhere(tallies: Tallies) -> Floats:
    """The mean over answer formats, each counting by its reliability and not by its size.

    A format never seen is one more draw from the formats there are: a thousand questions of one are one draw.
    """
    formats = np.array([is_format(skill) for skill in tallies.skills], dtype=np.bool_)
    if not formats.any():
        return tallies.overall
    asked = tallies.asked[formats]
    accuracy = (tallies.right[formats] + tallies.overall) / (asked + 1)
    reliability = asked / (asked + FACET_STRENGTH)
    total = reliability.sum(axis=0)
    pooled = (reliability * accuracy).sum(axis=0) / np.maximum(total, 1e-9)
    return np.where(total > 0, pooled, tallies.overall).astype(np.float32)


def _topic_strength(tallies: Tallies) -> float:
    """How many answers a topic's prior is worth: the variance of an answer over that of topics about their parent.

    Method of moments on what tells experts apart (accuracy less the mean over experts), so that a topic that is hard
    for all does not count as evidence on any.
    """
    low, high = TOPIC_STRENGTH
    rows = np.flatnonzero(tallies.topics & (tallies.asked.min(axis=1, initial=np.inf) > 0))[:SAMPLED]
    if len(rows) < 2 or len(tallies.experts) < 2:
        return low
    asked, accuracy = tallies.asked[rows].mean(axis=1), tallies.right[rows] / tallies.asked[rows]
    noise = float((asked[:, None] * accuracy * (1 - accuracy)).mean(axis=1).sum() / asked.sum())
    noise *= 1 - 1 / len(tallies.experts)
    spread = degrees = counted = 0.0
    for parent in np.unique(tallies.parents[rows]):
        siblings = tallies.parents[rows] == parent
        n, edge = asked[siblings], accuracy[siblings] - accuracy[siblings].mean(axis=1, keepdims=True)
        deviation = edge - (n[:, None] * edge).sum(axis=0) / n.sum()
        spread += float((n[:, None] * deviation**2).mean(axis=1).sum())
        degrees += len(n) - 1
        counted += float(n.sum() - (n**2).sum() / n.sum())
    between = (spread - degrees * noise) / max(counted, 1e-9)
    return float(np.clip(noise / between, low, high)) if between > 1e-6 else high
