"""Recruiting as the text of Symbolic-MoE describes it (arXiv 2503.05641, §3.2), and as its public code does it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from symmoe.routing.recruiting import drawn
from symmoe.types import Assessment, Explanation, Profiles, Query, Recruitment, Skills, Tally

Scores = Mapping[str, Mapping[str, float]]


class PublishedRecruiter:
    """The paper's rule: relevance `w = γ·S`, shares `softmax(w / T)`, and k draws *with replacement*.

    S sums an expert's scores on the query's skills; γ is its share of all scores in the pool (shifted to be
    non-negative where one is negative). Experts under `min_share` are dropped. A query without any known skill goes to
    `fallback`, or without one to experts drawn uniformly. `PublishedCodeRecruiter` has the public code's rule.
    """

    name = "published"

    def __init__(
        self, profiles: Profiles, temperature: float = 0.5, min_share: float = 0.05, fallback: str | None = None
    ) -> None:
        self._profiles = profiles
        self._temperature, self._min_share, self._fallback = temperature, min_share, fallback
        self._scores = topic_scores(profiles)
        self._competence = self._competences(self._scores)

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """Draw k slots for each query. The draw depends on the seed and the query's text, not on its neighbours."""
        shares = [self.shares(needed) for needed in skills]
        return [Recruitment(q.id, drawn(q, s, k, seed), s) for q, s in zip(queries, shares, strict=True)]

    def shares(self, skills: Skills) -> dict[str, float]:
        """Each expert's probability for a query with these skills, best first; dropped experts are left out."""
        names = [match.skill for match in skills.matches]
        if not any(name in scores for scores in self._scores.values() for name in names):
            return self._without_evidence()
        relevance = {
            expert: self._competence[expert] * sum(scores.get(name, 0) for name in names)
            for expert, scores in self._scores.items()
        }
        return self._shares(relevance)

    def explain(self, query: Query, skills: Skills, k: int, seed: int) -> Explanation:
        """The scores behind the shares. The rule models no uncertainty, so the intervals are those of the tallies."""
        shares = self.shares(skills)
        chosen = {assignment.expert for assignment in drawn(query, shares, k, seed)}
        known = [m.skill for m in skills.matches if any(m.skill in scores for scores in self._scores.values())]
        standings = tuple(
            sorted((self._assessment(e, known, shares, e in chosen) for e in self._scores), key=lambda s: -s.share)
        )
        tokens = [standing.tokens for standing in standings if standing.share]
        costs = tuple(sum(tokens[:n]) for n in range(1, len(tokens) + 1))
        note = "" if known else "no skill of the question is on record"
        return Explanation(query.id, self.name, dict.fromkeys(known, 1 / max(len(known), 1)), standings, costs, note)

    def _assessment(self, expert: str, known: Sequence[str], shares: Mapping[str, float], chosen: bool) -> Assessment:
        from symmoe.routing.tallies import interval

        profile = self._profiles.experts[expert]
        evidence = {name: profile.skills.get(name, Tally(0, 0)) for name in known}
        right, asked = sum(t.right for t in evidence.values()), sum(t.asked for t in evidence.values())
        mean = (right + 1) / (asked + 2)
        low, high = interval(mean, asked + 2)
        why = "drawn" if chosen else ("not drawn" if expert in shares else self._left_out())
        share = shares.get(expert, 0.0)
        return Assessment(expert, share, mean, low, high, profile.tokens, chosen, why, evidence)

    def _left_out(self) -> str:
        return f"share under {self._min_share:.0%}"

    def _without_evidence(self) -> dict[str, float]:
        if self._fallback:
            return {self._fallback: 1.0}
        return dict.fromkeys(self._scores, 1 / len(self._scores))

    def _competences(self, scores: Scores) -> dict[str, float]:
        return shares_of(shifted({expert: float(sum(by_skill.values())) for expert, by_skill in scores.items()}))

    def _shares(self, relevance: Mapping[str, float]) -> dict[str, float]:
        highest = max(relevance.values())
        raised = {expert: math.exp((w - highest) / self._temperature) for expert, w in relevance.items()}
        return _trimmed(shares_of(raised), self._min_share)


class PublishedCodeRecruiter(PublishedRecruiter):
    """The public code's rule: no softmax, no trimming; shares are the positive `S·γ`, and γ squares the competences.

    γ is `total^(1/T)` over its sum, with totals shifted where one is negative. Where no `S·γ` is positive, all are
    shifted. Draws are with replacement, as in the paper.
    """

    name = "published-code"

    def _competences(self, scores: Scores) -> dict[str, float]:
        totals = shifted({expert: float(sum(by_skill.values())) for expert, by_skill in scores.items()})
        highest = max(totals.values()) or 1.0
        return shares_of({expert: (total / highest) ** (1 / self._temperature) for expert, total in totals.items()})

    def _left_out(self) -> str:
        return "no positive relevance"

    def _shares(self, relevance: Mapping[str, float]) -> dict[str, float]:
        positive = {expert: w for expert, w in relevance.items() if w > 0} or shifted(relevance)
        return shares_of(dict(sorted(positive.items(), key=lambda item: -item[1])))


def topic_scores(profiles: Profiles) -> Scores:
    """Each expert's +1/−1 scores on topics; the published rules do not use answer formats and languages."""
    return {
        name: {skill: tally.score for skill, tally in profile.skills.items() if skill in profiles.parents}
        for name, profile in profiles.experts.items()
    }


def shifted(values: Mapping[str, float]) -> dict[str, float]:
    """Values moved up until none is negative."""
    lowest = min(0.0, *values.values())
    return {expert: value - lowest for expert, value in values.items()}


def shares_of(values: Mapping[str, float]) -> dict[str, float]:
    """Non-negative values as fractions of their sum; equal ones where the sum is 0."""
    overall = sum(values.values())
    return {expert: value / overall if overall else 1 / len(values) for expert, value in values.items()}


def _trimmed(shares: Mapping[str, float], least: float) -> dict[str, float]:
    best_first = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return shares_of({expert: share for expert, share in best_first.items() if share >= least} or best_first)
