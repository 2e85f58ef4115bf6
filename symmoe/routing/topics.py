"""Judging experts by their tallies on a question's nearest topics and on its answer format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.routing.tallies import (
    SAMPLED,
    Account,
    Floats,
    Judgement,
    Tallies,
    posterior_of,
    tallies_of,
    temperature_of,
)
from symmoe.types import Profiles, Skills, Tally

SHARPNESS = 30.0
"""A topic 0.033 nearer in cosine weighs e times as much."""
FACET_SIMILARITY = 0.4
"""The facet's own evidence weighs as much as a topic of this cosine: it decides when no topic is near."""
ANYWHERE = "any question"


@dataclass(frozen=True, slots=True)
class _Matched:
    """Evidence for a chunk of queries: rows of the posterior and their weights, both `[queries, skills]`.

    Row −1 stands for the accuracy expected anywhere. `strange` marks queries whose topics nobody was asked about.
    """

    rows: NDArray[np.int32]
    weights: Floats
    strange: NDArray[np.bool_]


class TopicEvidence:
    """Expects of an expert the weighted mean of its posteriors on a question's topics and its facet.

    A question is strange where most of the weight of its topics lies on topics that nobody was asked about.
    """

    unlike, instead = "no topic of the question is on record", "judged by its answer format alone"

    def __init__(self, records: Profiles | Tallies) -> None:
        self._tallies = tallies_of(records) if isinstance(records, Profiles) else records
        self._posterior = posterior_of(self._tallies)
        self.experts, self.tokens = self._tallies.experts, self._tallies.tokens
        rows = np.flatnonzero(self._tallies.topics)[:SAMPLED]
        self.temperature = temperature_of(self._tallies.right[rows], self._posterior.mean[rows])

    def judge(self, skills: Sequence[Skills]) -> Judgement:
        """The expected accuracy of every expert on every query."""
        matched = self._matched(skills)
        return Judgement(self._values(matched), matched.strange)

    def account(self, skills: Skills) -> Account:
        """The topics and the facet behind the judgement of one query."""
        matched = self._matched([skills])
        weights = self._named_weights(skills, matched)
        mass: dict[int, float] = {}
        for row, weight in zip(matched.rows[0].tolist(), matched.weights[0].tolist(), strict=True):
            mass[row] = mass.get(row, 0.0) + weight
        experts = range(len(self.experts))
        spread = [sum(weight**2 / self._strength(row, e) for row, weight in mass.items()) for e in experts]
        tallies = [{skill: self._tally(skill, e) for skill in weights if skill != ANYWHERE} for e in experts]
        return Account(weights, np.array([1 / each for each in spread]), tallies)

    def _matched(self, skills: Sequence[Skills]) -> _Matched:
        """Topics by similarity, then the most specific facet on record."""
        width = max((len(s.matches) for s in skills), default=0) + 1
        rows = np.full((len(skills), width), -1, dtype=np.int32)
        similarity = np.full((len(skills), width), -np.inf, dtype=np.float32)
        on_record = np.zeros((len(skills), width), dtype=np.bool_)
        known = self._posterior.rows
        for line, needed in enumerate(skills):
            facet = next((known[f] for f in needed.facets if f in known), -1)
            for place, match in enumerate(needed.matches):
                row = known.get(match.skill)
                rows[line, place] = facet if row is None else row
                on_record[line, place] = row is not None
                similarity[line, place] = match.similarity
            rows[line, -1] = facet
            similarity[line, -1] = FACET_SIMILARITY
        raised = np.exp((similarity - similarity.max(axis=1, keepdims=True)) * SHARPNESS)
        weights = raised / np.cumsum(raised, axis=1)[:, -1:]  # in order: a neighbour's padding changes no digit
        of_topics = np.cumsum(weights[:, :-1], axis=1)[:, -1] if width > 1 else np.zeros(len(skills))
        known_topics = np.cumsum(weights * on_record, axis=1)[:, -1]
        return _Matched(rows, weights, known_topics <= of_topics / 2)

    def _values(self, matched: _Matched) -> Floats:
        values = np.einsum("qs,qse->qe", matched.weights, self._posterior.mean[matched.rows])
        return np.asarray(np.clip(values, 0, 1), dtype=np.float32)

    def _named_weights(self, skills: Skills, matched: _Matched) -> dict[str, float]:
        facet = next((f for f in skills.facets if f in self._posterior.rows), ANYWHERE)
        names = [*(match.skill for match in skills.matches), facet]
        used = [*range(len(skills.matches)), matched.rows.shape[1] - 1]
        weights = {name: round(float(matched.weights[0, place]), 4) for name, place in zip(names, used, strict=True)}
        return dict(sorted(weights.items(), key=lambda item: -item[1]))

    def _strength(self, row: int, expert: int) -> float:
        return float(self._tallies.asked[row, expert] + self._posterior.worth[row]) if row >= 0 else 1.0

    def _tally(self, skill: str, expert: int) -> Tally:
        row = self._posterior.rows.get(skill)
        if row is None:
            return Tally(0, 0)
        right, asked = float(self._tallies.right[row, expert]), float(self._tallies.asked[row, expert])
        return Tally(round(right, 4), round(asked - right, 4))
