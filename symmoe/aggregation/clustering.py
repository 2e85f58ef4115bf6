"""Free-form texts that say the same in other words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from symmoe.aggregation.disagreement import disagree
from symmoe.protocols import Embedder

SIMILARITY = 0.8
"""Cosine similarity from which two texts say the same, if they do not contradict each other."""

SHORTEST, LONGEST = 8, 180
"""Words of a text that embeddings can tell: shorter ones are compared as written, longer ones do not fit."""

_MARKS = ("```", *"{}[]<>=\\|")
_ITEM = re.compile(r"^\s*[-*\d]", re.MULTILINE)


class SemanticClusters:
    """Groups texts by cosine similarity, complete linkage: a text joins those to all of which it is near enough.

    Texts that contradict each other never meet in a group. Lists, code and formulas are not prose: they stand alone.
    """

    def __init__(self, embedder: Embedder, similarity: float = SIMILARITY) -> None:
        self._embedder, self._similarity = embedder, similarity

    def cluster(self, texts: Sequence[str]) -> list[list[int]]:
        """Places of `texts` in groups; groups and members come in the order of their first text."""
        prose = [place for place, text in enumerate(texts) if is_prose(text)]
        agreeing = {(a, b) for a in prose for b in prose if a < b and not disagree(texts[a], texts[b])}
        if not agreeing:
            return [[place] for place in range(len(texts))]
        rows = self._embedder.embed([texts[place] for place in prose])
        cosine = dict(zip(prose, np.asarray(rows, dtype=np.float64), strict=True))
        near = {(a, b) for a, b in agreeing if float(cosine[a] @ cosine[b]) >= self._similarity}
        groups: list[list[int]] = []
        for place in range(len(texts)):
            home = next((group for group in groups if all((other, place) in near for other in group)), None)
            if home is None:
                groups.append([place])
            else:
                home.append(place)
        return groups


def is_prose(text: str) -> bool:
    """Whether a text is sentences of a length that embeddings can tell apart, not a list, code or a formula."""
    words = text.split()
    if (
        not SHORTEST <= len(words) <= LONGEST
        or 2 * text.count(",") >= len(words)
        or any(mark in text for mark in _MARKS)
    ):
        return False
    return not (_ITEM.search(text) if "\n" in text else _ITEM.match(text))
