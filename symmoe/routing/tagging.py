"""Naming the skills that a question needs by embedding similarity to a taxonomy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from symmoe.protocols import Embedder, Tagger
from symmoe.types import Query, Skill, SkillMatch, Skills


def tag(tagger: Tagger, queries: Sequence[Query]) -> list[Skills]:
    """The stage: the skills of each query."""
    return tagger.tag(queries) if queries else []


class EmbeddingTagger:
    """Matches a question to skills by cosine similarity, as Symbolic-MoE §3.2 matches keywords.

    A skill's similarity is the best among its description and its examples. A question keeps its nearest skill and up
    to `most - 1` more, but none below `least`, and none that trails the nearest by over `within`.
    """

    def __init__(
        self, embedder: Embedder, taxonomy: Sequence[Skill], most: int, least: float, within: float = 0.1
    ) -> None:
        self._embedder = embedder
        self._taxonomy = tuple(taxonomy)
        self._most, self._least, self._within = most, least, within
        self._anchors: NDArray[np.float32] | None = None
        phrasings = [(f"{s.name}: {s.description}", *s.examples) for s in self._taxonomy]
        self._texts = [text for texts in phrasings for text in texts]
        self._starts = np.cumsum([0, *(len(texts) for texts in phrasings[:-1])])

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        """The skills of each query, best first; none when nothing in the taxonomy comes near."""
        if self._anchors is None:
            self._anchors = self._embedder.embed(self._texts)
        distinct = list(dict.fromkeys(query.text for query in queries))
        similarities = np.maximum.reduceat(self._embedder.embed(distinct) @ self._anchors.T, self._starts, axis=1)
        matches = {text: self._nearest(row) for text, row in zip(distinct, similarities, strict=True)}
        return [Skills(query.id, matches[query.text]) for query in queries]

    def _nearest(self, similarities: NDArray[np.float32]) -> tuple[SkillMatch, ...]:
        order = np.argsort(-similarities, kind="stable")[: self._most]
        bar = max(self._least, float(similarities[order[0]]) - self._within)
        return tuple(
            SkillMatch(self._taxonomy[index].name, round(float(similarities[index]), 4))
            for index in order
            if similarities[index] >= bar
        )
