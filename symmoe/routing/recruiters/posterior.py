"""The default recruiter: distinct experts by expected accuracy, and no more of them than a question needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from symmoe.routing.competence import Competence, LearnedEvidence, earned_of, places_of
from symmoe.routing.recruiting import numbered
from symmoe.routing.tallies import Account, Evidence, Floats, Judgement, Tallies, interval
from symmoe.routing.topics import TopicEvidence
from symmoe.types import Assessment, Explanation, Profiles, Query, Recruitment, Skills

TOP_P = 0.5
_CHUNK = 512


def evidence_of(records: Profiles | Tallies) -> Evidence:
    """The evidence in records: learned from recorded questions where there are enough, otherwise tallied by topic."""
    topics = TopicEvidence(records)
    places = places_of(records.questions) if isinstance(records, Profiles) else None
    if places is None or len(places.home) < 2 or not isinstance(records, Profiles):
        return topics  # of one region nothing can be told that topics do not tell better
    learned = Competence(places, earned_of(records))
    return LearnedEvidence(learned, topics) if learned.known.any() else topics


class PosteriorRecruiter:
    """Recruits the experts most likely to be right according to the records (`evidence_of`).

    Shares are a softmax of expected accuracy at a temperature calibrated on the records themselves. The best expert is
    always recruited, and further ones until their shares reach `top_p`; at most k in all, and none twice. The rest of
    the k slots stay null. `budget` bounds the expected tokens of a question: the best expert within it is asked, or the
    cheapest if none is. For a question unlike everything on record, `fallback` comes first.
    """

    name = "symmoe"

    def __init__(
        self,
        profiles: Profiles | Tallies,
        top_p: float = TOP_P,
        fallback: str | None = None,
        budget: float | None = None,
    ) -> None:
        self._evidence = evidence_of(profiles)
        self._names, self._tokens = self._evidence.experts, self._evidence.tokens
        self._top_p, self._budget = top_p, budget
        self._column = {expert: column for column, expert in enumerate(self._names)}
        within = self._tokens <= (np.inf if budget is None else budget)
        self._affordable = within if within.any() else self._tokens == self._tokens.min(initial=np.inf)
        self._fallback = self._names.index(fallback) if fallback is not None else None

    def recruit(self, queries: Sequence[Query], skills: Sequence[Skills], k: int, seed: int) -> list[Recruitment]:
        """The best experts of each query, at most k. Nothing is drawn, so the seed changes nothing."""
        names = self._names
        recruitments: list[Recruitment] = []
        for start, judged in self._chunks(skills):
            shares = self._shares(judged)
            order = np.argsort(-shares, axis=1, kind="stable")
            sizes = self._sizes(np.take_along_axis(shares, order, axis=1), order, k)
            for query, own, right, ranked, size in zip(
                queries[start:], shares.tolist(), judged.values.tolist(), order.tolist(), sizes.tolist(), strict=False
            ):
                chosen = [names[expert] for expert in ranked[:size]]
                best_first = {names[expert]: own[expert] for expert in ranked}
                accuracies = {names[expert]: right[expert] for expert in ranked}
                recruitments.append(Recruitment(query.id, numbered(query, chosen), best_first, accuracies))
        return recruitments

    def values(self, skills: Sequence[Skills]) -> Floats:
        """The expected accuracy of every expert for every query, `[queries, experts]`."""
        return np.concatenate([judged.values for _, judged in self._chunks(skills)])

    def affords(self, experts: Sequence[str]) -> bool:
        """Whether asking these experts one question is within the budget."""
        return self._budget is None or sum(float(self._tokens[self._column[e]]) for e in experts) <= self._budget

    def explain(self, query: Query, skills: Skills, k: int, seed: int) -> Explanation:
        """Every expert's expected accuracy with its interval and the tallies behind it."""
        judged, account = self._evidence.judge([skills]), self._evidence.account(skills)
        shares = self._shares(judged)[0]
        order = np.argsort(-shares, kind="stable")
        size = int(self._sizes(shares[order][None], order[None], k)[0])
        wanted = int(self._wanted(shares[order][None])[0])
        strange = bool(judged.strange[0])
        standings = []
        for place, expert in enumerate(order.tolist()):
            why = self._reason(place, expert, size, wanted, k, strange)
            value, share = float(judged.values[0, expert]), float(shares[expert])
            standings.append(self._assessment(expert, value, account, share, place < size, why))
        costs = tuple(float(cost) for cost in np.cumsum(self._tokens[order]))
        return Explanation(query.id, self.name, account.weights, tuple(standings), costs, self._note(strange))

    def _chunks(self, skills: Sequence[Skills]) -> Iterator[tuple[int, Judgement]]:
        for start in range(0, len(skills), _CHUNK):
            yield start, self._evidence.judge(skills[start : start + _CHUNK])

    def _shares(self, judged: Judgement) -> NDArray[np.float64]:
        values = judged.values.astype(np.float64)
        if self._fallback is not None:
            values[judged.strange] = 0.0
            values[judged.strange, self._fallback] = 1.0
        values[:, ~self._affordable] = -np.inf
        raised = np.exp((values - values.max(axis=1, keepdims=True)) / self._evidence.temperature)
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

    def _assessment(
        self, expert: int, value: float, account: Account, share: float, chosen: bool, why: str
    ) -> Assessment:
        low, high = interval(value, max(float(account.strengths[expert]), 1.0))
        tokens = float(self._tokens[expert])
        return Assessment(self._names[expert], share, value, low, high, tokens, chosen, why, account.tallies[expert])

    def _reason(self, place: int, expert: int, size: int, wanted: int, k: int, strange: bool) -> str:
        """Why the expert at a place was asked or not, where `wanted` would have been without slots and budget."""
        if place == 0 and strange and expert == self._fallback:
            return "the pool's fallback"
        if place == 0:
            return "best expected accuracy"
        if place < size:
            return f"those before it hold under {self._top_p:.0%} of the mass"
        if place < min(wanted, k) or not self._affordable[expert]:
            return "over the budget"
        return "the slots are filled" if place < wanted else "enough asked"

    def _note(self, strange: bool) -> str:
        if not strange:
            return ""
        if self._fallback is None or not self._affordable[self._fallback]:
            return f"{self._evidence.unlike}: {self._evidence.instead}"
        return f"{self._evidence.unlike}: {self._names[self._fallback]} comes first"
