"""Recruiting without records: by the similarity of experts' descriptions to the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from symmoe.protocols import Embedder
from symmoe.routing.recruiting import numbered
from symmoe.types import Assessment, Explanation, Query, Recruitment, Skills

SHARPNESS = 0.05
"""A description that much nearer in cosine has e times the share."""
FALLBACK = 0.4
"""The fallback counts as at least so near: it comes first wherever no description is nearer."""


class DescribedRecruiter:
    """Shares are a softmax of the cosine between a question and each expert's name and description.

    This is a prior for a pool without records: it knows what experts claim, not what they can do. The best are asked
    until their shares reach `top_p`, at most k of them.
    """

    name = "described"

    def __init__(
        self, embedder: Embedder, described: Mapping[str, str], fallback: str | None = None, top_p: float = 0.5
    ) -> None:
        self._embedder, self._names, self._top_p = embedder, tuple(described), top_p
        self._told = [f"{name}: {words}" if words else name for name, words in described.items()]
        self._fallback = self._names.index(fallback) if fallback is not None else None

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """The best experts of each query, at most k. Nothing is drawn, so the seed changes nothing."""
        recruitments = []
        for query, shares in zip(queries, self._shares(queries), strict=True):
            best_first = dict(sorted(zip(self._names, shares.tolist(), strict=True), key=lambda item: -item[1]))
            before = np.cumsum([0.0, *best_first.values()])[:-1]
            chosen = [name for name, mass in zip(best_first, before, strict=True) if mass < self._top_p][:k]
            recruitments.append(Recruitment(query.id, numbered(query, chosen), best_first))
        return recruitments

    def explain(self, query: Query, skills: Skills, k: int, seed: int) -> Explanation:
        """Every expert's share; there is no evidence to show."""
        (recruitment,) = self.recruit([query], [skills], k, seed)
        chosen = {assignment.expert for assignment in recruitment.assignments}
        standings = tuple(
            Assessment(name, share, share, 0.0, 1.0, 0.0, name in chosen, "by its description", {})
            for name, share in recruitment.shares.items()
        )
        note = "no expert is on record: judged by descriptions alone; build records with `symmoe profile build`"
        return Explanation(query.id, self.name, {}, standings, (), note)

    def _shares(self, queries: Sequence[Query]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Shares that sum to one, `[queries, experts]`."""
        vectors = self._embedder.embed([*self._told, *(query.text for query in queries)]).astype(np.float64)
        near = vectors[len(self._told) :] @ vectors[: len(self._told)].T
        if self._fallback is not None:
            near[:, self._fallback] = np.maximum(near[:, self._fallback], FALLBACK)
        raised = np.exp((near - near.max(axis=1, keepdims=True)) / SHARPNESS)
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))
