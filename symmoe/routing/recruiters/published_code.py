"""Recruiting as the public code of Symbolic-MoE does it, which differs from the paper's text."""

from __future__ import annotations

from collections.abc import Mapping

from symmoe.routing.recruiters.published import PublishedRecruiter, Scores, shares_of, shifted


class PublishedCodeRecruiter(PublishedRecruiter):
    """The code's rule: no softmax and no trimming; shares are the positive `S·γ`, and γ squares the competences.

    γ is `total^(1/T)` over its sum, with totals shifted where one is negative. Where no `S·γ` is positive, all are
    shifted. Draws are with replacement, as in the paper.
    """

    name = "published-code"

    def _competences(self, scores: Scores) -> dict[str, float]:
        totals = shifted({expert: float(sum(own.values())) for expert, own in scores.items()})
        highest = max(totals.values()) or 1.0
        return shares_of({expert: (total / highest) ** (1 / self._temperature) for expert, total in totals.items()})

    def _left_out(self) -> str:
        return "no positive relevance"

    def _shares(self, relevance: Mapping[str, float]) -> dict[str, float]:
        positive = {expert: w for expert, w in relevance.items() if w > 0} or shifted(relevance)
        return shares_of(dict(sorted(positive.items(), key=lambda item: -item[1])))
