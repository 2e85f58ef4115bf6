"""Naming the skills that a question needs by embedding similarity to a taxonomy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from symmoe.limits import ROUTED_CHARACTERS
from symmoe.protocols import Embedder, Tagger
from symmoe.routing.facets import facets_of
from symmoe.types import Query, Skill, SkillMatch, Skills

Floats = NDArray[np.float32]
FOREIGN = 0.1
"""What a skill loses in cosine when the question lacks the facet that the skill's own examples share."""
_LONG, _END = 2400, 500
"""Characters from which on a question's end is read by itself, too, and how many of them."""
_BRIEF = 12
"""Words of a turn that may refer to the one before it."""
_CELLS = 4_000_000
"""How many similarities are held at once."""


def tag(tagger: Tagger, queries: Sequence[Query]) -> list[Skills]:
    """The skills of each query."""
    return tagger.tag(queries) if queries else []


def routed_part(text: str) -> str:
    """The part of a question that routing reads: both ends of an enormous one, otherwise all of it."""
    half = ROUTED_CHARACTERS // 2
    return text if len(text) <= ROUTED_CHARACTERS else f"{text[:half]}\n{text[-half:]}"


def readings(query: Query) -> tuple[str, ...]:
    """The texts by which a query may be routed.

    These are the question; of a long one also its end alone, since embedders read some hundred tokens and a question
    may follow its background; and for a brief turn such as "And 19?" the turn before with it.
    """
    text = routed_part(query.text)
    earlier = [message.content for message in query.messages if message.role == "user"][:-1]
    texts = [text]
    if len(text) > _LONG:
        texts.append(text[-_END:].partition(" ")[2])
    if earlier and len(text.split()) <= _BRIEF:
        texts.append(f"{earlier[-1][-_END:]}\n{text}")
    return tuple(texts)


Named = tuple[tuple[SkillMatch, ...], tuple[str, ...], bytes]
"""Of a text its topics, best first, its facets, and its embedding."""


def skills_of(queries: Sequence[Query], name: Callable[[Sequence[str]], list[Named]]) -> list[Skills]:
    """The skills of each query. `name` finds those of texts, and is given each text once."""
    read = [readings(query) for query in queries]
    distinct = distinct_of(read)
    named = dict(zip(distinct, name(distinct), strict=True))

    def near(text: str) -> float:
        topics = named[text][0]
        return topics[0].similarity if topics else 0.0

    return [Skills(query.id, *named[max(texts, key=near)]) for query, texts in zip(queries, read, strict=True)]


def distinct_of(read: Iterable[Sequence[str]]) -> list[str]:
    """The texts by which queries are routed, each once."""
    return list(dict.fromkeys(text for texts in read for text in texts))


class EmbeddingTagger:
    """Matches a question to skills by cosine similarity, as Symbolic-MoE §3.2 matches keywords; no LLM is called.

    A question's similarity to a skill is that to the mean of the skill's description and examples. A question keeps its
    nearest skill and up to `most - 1` more, but none below `least`, and none more than `within` below the nearest. Its
    facets (answer format, language) are read off the text. Of several `readings` the one nearest to a skill counts.
    """

    def __init__(
        self, embedder: Embedder, taxonomy: Sequence[Skill], most: int, least: float, within: float = 0.1
    ) -> None:
        self.embedder = embedder
        self._names = [skill.name for skill in taxonomy]
        self._home = {facet: number for number, facet in enumerate(dict.fromkeys(s.facet for s in taxonomy))}
        self._homes = np.array([self._home[skill.facet] for skill in taxonomy])
        self._most, self._least, self._within = min(most, len(taxonomy)), least, within
        self._anchors: Floats | None = None
        self._phrasings = [(f"{skill.name}: {skill.description}", *skill.examples) for skill in taxonomy]

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        """The skills of each query, best first; no topic where nothing in the taxonomy is similar."""
        return skills_of(queries, self.name)

    def name(self, texts: Sequence[str]) -> list[Named]:
        """The topics, facets and embedding of each text."""
        facets = [facets_of(text) for text in texts]
        vectors = self.embedder.embed(texts)
        embedded = (vector.tobytes() for vector in vectors.astype(np.float32, copy=False))
        return list(zip(self.topics(vectors, facets), facets, embedded, strict=True))

    def topics(self, vectors: Floats, facets: Sequence[Sequence[str]]) -> list[tuple[SkillMatch, ...]]:
        """The topics of questions, given their embeddings (unit rows, `[n, d]`) and facets."""
        if self._anchors is None:
            self._anchors = self._centres()
        matches: list[tuple[SkillMatch, ...]] = []
        size = max(1, _CELLS // len(self._names))
        for start in range(0, len(vectors), size):
            similarities = vectors[start : start + size] @ self._anchors.T
            similarities -= self._foreign(facets[start : start + size])
            matches += self._nearest(similarities)
        return matches

    def _centres(self) -> Floats:
        """The mean of each skill's phrasings as a unit row, `[skills, d]`."""
        vectors = self.embedder.embed([text for texts in self._phrasings for text in texts])
        starts = np.cumsum([0, *(len(texts) for texts in self._phrasings[:-1])])
        sums = np.add.reduceat(vectors, starts, axis=0)
        return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9), dtype=np.float32)

    def _foreign(self, facets: Sequence[Sequence[str]]) -> Floats:
        """The penalty of each skill for each question, `[questions, skills]`; all 0 for skills that name no facet."""
        penalty = np.full((len(facets), len(self._home)), FOREIGN, dtype=np.float32)
        for line, row_facets in enumerate(facets):
            penalty[line, [self._home[facet] for facet in ("", *row_facets) if facet in self._home]] = 0.0
        return penalty[:, self._homes] if len(self._home) > 1 else penalty

    def _nearest(self, similarities: Floats) -> list[tuple[SkillMatch, ...]]:
        """The best of each row, without sorting what is not kept. Ties go to the skill that stands first."""
        best = np.sort(np.argpartition(similarities, -self._most, axis=1)[:, -self._most :], axis=1)
        least = np.take_along_axis(similarities, best, axis=1).min(axis=1, keepdims=True)
        for row in np.flatnonzero((similarities >= least).sum(axis=1) > self._most):  # a tie for the last place
            best[row] = np.sort(np.argsort(-similarities[row], kind="stable")[: self._most])
        values = np.take_along_axis(similarities, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
        mask = values >= np.maximum(self._least, values[:, :1] - self._within)
        names = self._names
        return [
            tuple(SkillMatch(names[skill], round(value, 4)) for skill, value in zip(row[:n], cosines, strict=False))
            for row, cosines, n in zip(best.tolist(), values.tolist(), mask.sum(axis=1).tolist(), strict=True)
        ]
