"""A usable record from few questions: what similar experts are good at, corrected by the newcomer's own answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from symmoe.routing.tallies import Posterior, Tallies, posterior_of, tallies_of
from symmoe.types import ExpertProfile, Profiles, Skills, Tally

BORROWED = (1.0, 30.0)
"""Bounds of how many answers a borrowed record counts as on each skill; between them it is estimated from the pool."""
_CAUTION = 0.02

Floats = NDArray[np.float64]


def likeness(profiles: Profiles, skills: Sequence[Skills], earned: Sequence[float]) -> dict[str, float]:
    """How well each expert's record explains what a newcomer earned, as weights that sum to one.

    A weight is the likelihood of those results if the newcomer were that expert (Bayesian model averaging).
    """
    tallies = tallies_of(profiles)
    expected = np.clip(_expected(tallies, posterior_of(tallies), skills), _CAUTION, 1 - _CAUTION)
    right = np.asarray(earned, dtype=np.float64)[:, None]
    evidence = (right * np.log(expected) + (1 - right) * np.log(1 - expected)).sum(axis=0)
    raised = np.exp(evidence - evidence.max(initial=-np.inf))
    return dict(zip(tallies.experts, (raised / raised.sum()).tolist(), strict=True))


def borrow(newcomer: ExpertProfile, profiles: Profiles, alike: dict[str, float]) -> ExpertProfile:
    """The newcomer's record with pseudo-counts borrowed, skill by skill, from the experts in `alike`.

    The pseudo-counts weigh as much as this pool's experts predict each other (`lending_strength`). Nothing is borrowed
    for a skill where the newcomer's own answers already outnumber that.
    """
    tallies = tallies_of(profiles)
    posterior = posterior_of(tallies)
    weights = np.array([alike.get(expert, 0.0) for expert in tallies.experts])
    means = posterior.mean.astype(np.float64) @ weights
    most = lending_strength(tallies, posterior)
    borrowed = {}
    for skill, row in posterior.rows.items():
        own_count = newcomer.skills.get(skill, Tally(0, 0)).asked
        lent = max(0.0, most - own_count)
        if lent:
            borrowed[skill] = Tally(round(lent * float(means[row]), 4), round(lent * (1 - float(means[row])), 4))
    return replace(newcomer, borrowed=borrowed)


def lending_strength(tallies: Tallies, posterior: Posterior) -> float:
    """How many answers others' accuracy on a skill is worth: the variance of one answer over that between experts.

    It is large for a pool of generalists: with less, a newcomer that was lucky on its few questions would be given some
    that others answer better. It is small for specialists, whose accuracies say nothing of each other.
    """
    low, high = BORROWED
    means = posterior.mean[: len(tallies.skills)][tallies.topics].astype(np.float64)
    if means.shape[0] == 0 or means.shape[1] < 2:
        return low
    others = (means.sum(axis=1, keepdims=True) - means) / (means.shape[1] - 1)
    between = float(((means - others) ** 2).mean())
    return float(np.clip((means * (1 - means)).mean() / max(between, 1e-9), low, high))


def diverse_questions(skills: Sequence[Skills], count: int) -> list[int]:
    """The indices of `count` questions to ask a newcomer, spread over topics and answer formats.

    Kinds of questions asked least so far come first. Choosing the questions on which the pool's experts differ most was
    tried and is worse: their results predict too little of how the newcomer does elsewhere.
    """
    kinds = [(needed.facets[:1], needed.matches[0].skill if needed.matches else "") for needed in skills]
    counts: Counter[object] = Counter()
    chosen: list[int] = []
    left = list(range(len(skills)))
    while left and len(chosen) < count:
        best = min(left, key=lambda i: (counts[kinds[i]], counts[kinds[i][0]], i))
        left.remove(best)
        chosen.append(best)
        counts.update([kinds[best][0], kinds[best]])
    return chosen


def earned_by_agreement(own: Sequence[str | None], others: Sequence[Sequence[tuple[str | None, float]]]) -> list[float]:
    """What a newcomer's answers earn when the right ones are unknown: the share of the pool's weight that agrees, 0..1.

    `others` holds for each question the pool's answers, normalised for comparison, and their weights. A question that
    the pool did not answer earns 0.5.
    """
    earned = []
    for answer, votes in zip(own, others, strict=True):
        total = sum(weight for other, weight in votes if other is not None)
        agreeing = sum(weight for other, weight in votes if other is not None and other == answer)
        earned.append(agreeing / total if total else 0.5)
    return earned


def _expected(tallies: Tallies, posterior: Posterior, skills: Sequence[Skills]) -> Floats:
    """The expected accuracy of every expert on every question by its nearest topic or facet, `[questions, experts]`."""
    rows = []
    for needed in skills:
        names = [*(match.skill for match in needed.matches[:1]), *needed.facets]
        row = next((posterior.rows[name] for name in names if name in posterior.rows), None)
        rows.append(posterior.anywhere if row is None else posterior.mean[row])
    return np.array(rows, dtype=np.float64).reshape(len(skills), len(tallies.experts))
