"""A penalty for answers that weak experts also give (the text analogue of self-contrast between experts, SCMoE)."""

from __future__ import annotations

from collections.abc import Sequence

WEAK = 0.5
"""A candidate is a weak expert's if it weighs less than this part of the heaviest."""


def contrasted(weights: Sequence[float], groups: Sequence[Sequence[int]], strength: float) -> list[float]:
    """The weight of each group of candidates, less `strength` times the share of the weak experts that are in it.

    Nothing falls below 0, and where all would, or where no candidate is weak, weights only add up. `strength` 0 is no
    penalty.
    """
    totals = [sum(weights[place] for place in group) for group in groups]
    weak = {place for place, weight in enumerate(weights) if 0 < weight < WEAK * max(weights)}
    if not weak or not strength:
        return totals
    whole = sum(totals)
    left = [
        max(0.0, total - strength * whole * len(weak & set(group)) / len(weak))
        for total, group in zip(totals, groups, strict=True)
    ]
    return left if any(left) else totals
