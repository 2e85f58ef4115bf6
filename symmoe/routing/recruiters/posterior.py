"""Our recruiter: distinct experts by posterior accuracy, and no more of them than a question needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.routing.evidence import SAMPLED, Floats, Posterior, Tallies, interval, posterior_of, tallies_of
from symmoe.routing.recruiters.slots import numbered
from symmoe.types import Explanation, Profiles, Query, Recruitment, Skills, Standing, Tally

SHARPNESS = 30.0
"""A topic 0.033 nearer in cosine weighs e times as much."""
FACET_SIMILARITY = 0.4
"""The facet's own evidence weighs as much as a topic of this cosine: it decides when no topic is near."""
TOP_P = 0.5
ANYWHERE = "any question"
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class _Matched:
    """Evidence for a chunk of queries: rows of the posterior and their weights, both `[queries, skills]`.

    Row −1 stands for the accuracy expected anywhere. `strange` marks queries whose topics nobody was asked about.
    """

    rows: NDArray[np.int32]
    weights: Floats
    strange: NDArray[np.bool_]


class PosteriorRecruiter:
    """Expected accuracy is the weighted mean of posteriors over a question's topics and its facet.

    Shares are a softmax of it at a temperature calibrated on the records themselves. The best expert is always
    recruited, more of them only until their shares reach `top_p`, at most k and never one twice: what is left of k are
    null slots. `budget` bounds the expected tokens of a question: the best expert within it is asked, or else the
    cheapest one.
    Where most of the weight of a question's topics lies on ones that nobody was asked about, `fallback` comes first.
    """

    name = "symmoe"

    def __init__(
        self,
        profiles: Profiles | Tallies,
        top_p: float = TOP_P,
        fallback: str | None = None,
        budget: float | None = None,
    ) -> None:
        self._tallies = tallies_of(profiles) if isinstance(profiles, Profiles) else profiles
        self._posterior = posterior_of(self._tallies)
        self._temperature = temperature_of(self._tallies, self._posterior)
        self._top_p, self._budget = top_p, budget
        self._column = {expert: column for column, expert in enumerate(self._tallies.experts)}
        self._tokens = self._tallies.tokens
        within = self._tokens <= (np.inf if budget is None else budget)
        self._affordable = within if within.any() else self._tokens == self._tokens.min(initial=np.inf)
        self._fallback = self._tallies.experts.index(fallback) if fallback is not None else None

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """The best experts of each query, at most k. Nothing is drawn, so the seed changes nothing."""
        names = self._tallies.experts
        recruitments: list[Recruitment] = []
        for start, matched in self._chunks(skills):
            values = self._values(matched)
            shares = self._shares(matched)
            order = np.argsort(-shares, axis=1, kind="stable")
            sizes = self._sizes(np.take_along_axis(shares, order, axis=1), order, k)
            for query, own, right, ranked, size in zip(queries[start:], shares, values, order, sizes, strict=False):
                chosen = [names[expert] for expert in ranked[:size]]
                best_first = {names[expert]: float(own[expert]) for expert in ranked}
                accuracies = {names[expert]: float(right[expert]) for expert in ranked}
                recruitments.append(Recruitment(query.id, numbered(query, chosen), best_first, accuracies))
        return recruitments

    def values(self, skills: Sequence[Skills]) -> Floats:
        """The expected accuracy of every expert for every query, `[queries, experts]`."""
        return np.concatenate([self._values(matched) for _, matched in self._chunks(skills)])

    def affords(self, experts: Sequence[str]) -> bool:
        """Whether asking these experts one question is within the budget."""
        return self._budget is None or sum(float(self._tokens[self._column[e]]) for e in experts) <= self._budget

    def explain(self, query: Query, skills: Skills, k: int, seed: int) -> Explanation:
        """Every expert's standing, with its interval and the tallies behind it."""
        matched = self._matched([skills])
        shares = self._shares(matched)[0]
        order = np.argsort(-shares, kind="stable")
        size = int(self._sizes(shares[order][None], order[None], k)[0])
        wanted = int(self._wanted(shares[order][None])[0])
        weights = self._named_weights(skills, matched)
        standings = []
        for place, expert in enumerate(order.tolist()):
            why = self._reason(place, expert, size, wanted, k, matched)
            standings.append(self._standing(expert, matched, float(shares[expert]), weights, place < size, why))
        costs = tuple(float(cost) for cost in np.cumsum(self._tokens[order]))
        return Explanation(query.id, self.name, weights, tuple(standings), costs, self._note(matched))

    def _chunks(self, skills: Sequence[Skills]) -> Iterator[tuple[int, _Matched]]:
        for start in range(0, len(skills), _CHUNK):
            yield start, self._matched(skills[start : start + _CHUNK])

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

    def _shares(self, matched: _Matched) -> NDArray[np.float64]:
        values = self._values(matched).astype(np.float64)
        if self._fallback is not None:
            values[matched.strange] = 0.0
            values[matched.strange, self._fallback] = 1.0
        values[:, ~self._affordable] = -np.inf
        raised = np.exp((values - values.max(axis=1, keepdims=True)) / self._temperature)
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def _sizes(self, ranked: NDArray[np.float64], order: NDArray[np.intp], k: int) -> NDArray[np.intp]:
        """How many of the ranked experts to ask: until their shares reach `top_p`, within k and the budget."""
        wanted = self._wanted(ranked)
        if self._budget is not None:
            affordable = (np.cumsum(self._tokens[order], axis=1) <= self._budget).sum(axis=1)
            wanted = np.minimum(wanted, affordable)
        return np.asarray(np.clip(wanted, 1, k), dtype=np.intp)

    def _wanted(self, ranked: NDArray[np.float64]) -> NDArray[np.intp]:
        """How many would be asked without slots and budget: all of them where `top_p` is 1."""
        if self._top_p >= 1:
            return np.full(len(ranked), ranked.shape[1])
        mass_before = np.cumsum(ranked, axis=1) - ranked
        return np.asarray((mass_before < self._top_p - 1e-12).sum(axis=1))

    def _named_weights(self, skills: Skills, matched: _Matched) -> dict[str, float]:
        facet = next((f for f in skills.facets if f in self._posterior.rows), ANYWHERE)
        names = [*(match.skill for match in skills.matches), facet]
        used = [*range(len(skills.matches)), matched.rows.shape[1] - 1]
        weights = {name: round(float(matched.weights[0, place]), 4) for name, place in zip(names, used, strict=True)}
        return dict(sorted(weights.items(), key=lambda item: -item[1]))

    def _standing(
        self, expert: int, matched: _Matched, share: float, weights: Mapping[str, float], chosen: bool, why: str
    ) -> Standing:
        name = self._tallies.experts[expert]
        value = float(self._values(matched)[0, expert])
        mass: dict[int, float] = {}
        for row, weight in zip(matched.rows[0].tolist(), matched.weights[0].tolist(), strict=True):
            mass[row] = mass.get(row, 0.0) + weight
        spread = sum(weight**2 / self._strength(row, expert) for row, weight in mass.items())
        low, high = interval(value, max(1 / spread, 1.0))
        evidence = {skill: self._tally(skill, expert) for skill in weights if skill != ANYWHERE}
        tokens = float(self._tokens[expert])
        return Standing(name, share, value, low, high, tokens, chosen, why, evidence)

    def _reason(self, place: int, expert: int, size: int, wanted: int, k: int, matched: _Matched) -> str:
        """Why the expert at a place was asked or not, where `wanted` would have been without slots and budget."""
        if place == 0 and matched.strange[0] and expert == self._fallback:
            return "the pool's fallback"
        if place == 0:
            return "best expected accuracy"
        if place < size:
            return f"those before it hold under {self._top_p:.0%} of the mass"
        if place < min(wanted, k) or not self._affordable[expert]:
            return "over the budget"
        return "the slots are filled" if place < wanted else "enough asked"

    def _strength(self, row: int, expert: int) -> float:
        return float(self._tallies.asked[row, expert] + self._posterior.worth[row]) if row >= 0 else 1.0

    def _tally(self, skill: str, expert: int) -> Tally:
        row = self._posterior.rows.get(skill)
        if row is None:
            return Tally(0, 0)
        right, asked = float(self._tallies.right[row, expert]), float(self._tallies.asked[row, expert])
        return Tally(round(right, 4), round(asked - right, 4))

    def _note(self, matched: _Matched) -> str:
        if not matched.strange[0]:
            return ""
        if self._fallback is None or not self._affordable[self._fallback]:
            return "no topic of the question is on record: judged by its answer format alone"
        return f"no topic of the question is on record: {self._tallies.experts[self._fallback]} comes first"


def temperature_of(tallies: Tallies, posterior: Posterior) -> float:
    """The softmax temperature under which right answers are likeliest to be those of the experts with high shares.

    Minimises the cross-entropy between an expert's share of a topic's right answers and its share of the mass.
    """
    from scipy.optimize import minimize_scalar

    rows = np.flatnonzero(tallies.topics)[:SAMPLED]
    right = tallies.right[rows].astype(np.float64)
    if len(tallies.experts) < 2 or not right.sum():
        return 1.0
    means = posterior.mean[rows].astype(np.float64)

    def loss(log_temperature: float) -> float:
        logits = means / np.exp(log_temperature)
        logits -= logits.max(axis=1, keepdims=True)
        log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-(right * log_shares).sum() / right.sum())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(1e-3), np.log(10.0)), method="bounded").x))
