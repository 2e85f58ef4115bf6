"""Recruiting as Symbolic-MoE does it (arXiv 2503.05641, §3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from symmoe.protocols import Profiles, Recruiter
from symmoe.types import Assignment, Query, Recruitment, Skills


def recruit(
    recruiter: Recruiter, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int
) -> list[Recruitment]:
    """The stage: who answers each query."""
    return recruiter.recruit(queries, skills, k, seed)


class SymbolicRecruiter:
    """The paper's rule as its text gives it (its public code has no softmax and never trims).

    An expert's relevance to a query is `w = γ·S`: S sums its scores on the query's skills, γ is its share of all
    scores in the pool (shifted to be non-negative where one is negative). Shares are `softmax(w / T)`; experts under
    `min_share` are dropped, and k slots are drawn from the rest *with replacement*.

    A query of which no skill is known goes to `fallback`, or to experts drawn uniformly if there is none.
    """

    def __init__(
        self, profiles: Profiles, temperature: float = 0.5, min_share: float = 0.05, fallback: str | None = None
    ) -> None:
        self._profiles = profiles
        self._temperature, self._min_share, self._fallback = temperature, min_share, fallback
        self._competence = _competence(profiles)

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """Draw k slots for each query. The draw depends on the seed and the query's text, not on its neighbours."""
        return [self._recruit_one(q, s, k, Random(f"{seed}/{q.text}")) for q, s in zip(queries, skills, strict=True)]

    def shares(self, skills: Skills) -> dict[str, float]:
        """The probability of each expert for a query of these skills, best first; the dropped ones are left out."""
        names = [match.skill for match in skills.matches]
        if not any(name in profile.scores for profile in self._profiles.values() for name in names):
            return self._without_evidence()
        relevance = {
            expert: self._competence[expert] * sum(profile.scores.get(name, 0) for name in names)
            for expert, profile in self._profiles.items()
        }
        return _trim(_softmax(relevance, self._temperature), self._min_share)

    def _without_evidence(self) -> dict[str, float]:
        if self._fallback:
            return {self._fallback: 1.0}
        return dict.fromkeys(self._profiles, 1 / len(self._profiles))

    def _recruit_one(self, query: Query, skills: Skills, k: int, rng: Random) -> Recruitment:
        shares = self.shares(skills)
        drawn = rng.choices(list(shares), weights=list(shares.values()), k=k)
        slots: dict[str, int] = {}
        assignments = []
        for expert in drawn:
            slots[expert] = slots.get(expert, -1) + 1
            assignments.append(Assignment(query.id, expert, slots[expert]))
        return Recruitment(query.id, tuple(assignments), shares)


def _competence(profiles: Profiles) -> dict[str, float]:
    """γ: each expert's share of all scores. Equal shares when no scores tell experts apart."""
    totals = {expert: float(sum(profile.scores.values())) for expert, profile in profiles.items()}
    lowest = min(totals.values())
    if lowest < 0:
        totals = {expert: total - lowest for expert, total in totals.items()}
    overall = sum(totals.values())
    if overall == 0:
        return dict.fromkeys(totals, 1 / len(totals))
    return {expert: total / overall for expert, total in totals.items()}


def _softmax(relevance: dict[str, float], temperature: float) -> dict[str, float]:
    highest = max(relevance.values())
    raised = {expert: math.exp((w - highest) / temperature) for expert, w in relevance.items()}
    overall = sum(raised.values())
    return {expert: value / overall for expert, value in raised.items()}


def _trim(shares: dict[str, float], least: float) -> dict[str, float]:
    best_first = dict(sorted(shares.items(), key=lambda item: -item[1]))
    kept = {expert: share for expert, share in best_first.items() if share >= least} or best_first
    overall = sum(kept.values())
    return {expert: share / overall for expert, share in kept.items()}
