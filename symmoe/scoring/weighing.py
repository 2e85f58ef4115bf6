"""Weighs candidates by their experts' records, by a reward model's scores, or by both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import ConfigError
from symmoe.protocols import RewardModel, Scorer
from symmoe.questions.families import options_of, support
from symmoe.types import Candidate, Query, Recruitment, Reward, Verdict


def weigh(
    scorer: Scorer,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[Candidate]],
    recruitments: Sequence[Recruitment],
) -> list[list[Verdict]]:
    """A verdict on every candidate of every query."""
    return scorer.weigh(queries, candidates, recruitments)


class RecordScorer:
    """Weighs a candidate by the log-odds that its expert is right about this query, against one of the other options.

    That is the best weight of independent voters (Nitzan and Paroush 1982, for more than two options). With a recruiter
    that cannot tell how likely an expert is right, the weight is the expert's share.
    """

    def weigh(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        recruitments: Sequence[Recruitment],
    ) -> list[list[Verdict]]:
        """One verdict per candidate of each query, in order. Empty and failed generations weigh nothing."""
        rows = zip(queries, candidates, recruitments, strict=True)
        return [weigh_by_records(query, row, recruitment) for query, row, recruitment in rows]


def weigh_by_records(query: Query, candidates: Sequence[Candidate], recruitment: Recruitment) -> list[Verdict]:
    """Each candidate's weight by its expert's record; 0 where it has no answer."""
    weights = weights_of(query.text, recruitment, [candidate.expert for candidate in candidates])
    return [
        Verdict(candidate.expert, candidate.slot, weight if is_answer(candidate) else 0.0)
        for candidate, weight in zip(candidates, weights, strict=True)
    ]


def weights_of(question: str, recruitment: Recruitment, experts: Sequence[str]) -> list[float]:
    """The weight of each expert's answer by its record."""
    if not recruitment.accuracies:
        return [recruitment.shares.get(expert, 0.0) for expert in experts]
    options = options_of(question)
    return [support(recruitment.accuracies.get(expert, 0.0), options) for expert in experts]


def is_answer(candidate: Candidate) -> bool:
    """Whether a generation gave an answer that can be weighed."""
    return bool(candidate.text) and candidate.finish_reason != "error"


MOST = 20.0
"""The largest slope and exponent that a fit may end at: beyond it one answer takes all."""
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class Mixture:
    """A product of experts: weight ∝ exp(score / temperature) · share ** evidence.

    `evidence` 0 leaves the record out. The temperature is in units of the reward model's scores.
    """

    temperature: float = 1.0
    evidence: float = 1.0

    def weigh(self, scores: Sequence[float | None], shares: Sequence[float]) -> list[float]:
        """Weights of one query's answers, which sum to one; an answer without a score weighs 0.

        If no answer has a score, all weights are 0.
        """
        known = [place for place, score in enumerate(scores) if score is not None]
        weights = [0.0] * len(scores)
        if known:
            known_scores = np.array([scores[place] for place in known], dtype=np.float64)
            raised = np.exp(
                _exponents(known_scores, np.array([shares[p] for p in known]), 1 / self.temperature, self.evidence)
            )
            for place, weight in zip(known, raised / raised.sum(), strict=True):
                weights[place] = float(weight)
        return weights


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers to one query: their scores, the shares of their experts, and which of them are right, each `[n]`."""

    scores: NDArray[np.float64]
    shares: NDArray[np.float64]
    right: NDArray[np.bool_]


def fit_mixture(judged: Sequence[Judged]) -> Mixture:
    """The mixture that maximises the mean log of the right answers' weight in each query.

    Queries whose answers are all right or all wrong are left out. Raises `ConfigError` if none is left.
    """
    from scipy.optimize import minimize

    informative = [query for query in judged if query.right.any() and not query.right.all()]
    if not informative:
        raise ConfigError("no question has both right and wrong answers: nothing tells how to weigh them")

    def loss(parameters: NDArray[np.float64]) -> float:
        return -float(np.mean([_log_weight(query, *parameters) for query in informative]))

    scale = float(np.std(np.concatenate([query.scores for query in informative]))) or 1.0
    start, bounds = np.array([1.0 / scale, 1.0]), [(1e-3 / scale, MOST / scale), (0.0, MOST)]
    optimum = minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    slope, evidence = (float(number) for number in optimum.x)
    return Mixture(1 / slope, evidence)


def _log_weight(query: Judged, slope: float, evidence: float) -> float:
    """The logarithm of the weight of a query's right answers."""
    exponents = _exponents(query.scores, query.shares, slope, evidence)
    return float(np.log(np.exp(exponents[query.right]).sum() + 1e-12) - np.log(np.exp(exponents).sum()))


def _exponents(
    scores: NDArray[np.float64], shares: NDArray[np.float64], slope: float, evidence: float
) -> NDArray[np.float64]:
    """Logarithms of the weights, the largest of them 0."""
    raw = scores * slope + evidence * np.log(np.maximum(shares, _LEAST_SHARE))
    return np.asarray(raw - raw.max(), dtype=np.float64)


FAILED = Reward(None, note="the generation failed")


def judge(
    model: RewardModel, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]]
) -> list[list[Reward]]:
    """The model's reward of every candidate of every query, in order. Failed generations are not shown to it."""
    shown = [[c.text for c in row if c.finish_reason != "error"] for row in candidates]
    scored = [iter(row) for row in model.score(queries, shown)]
    return [
        [FAILED if c.finish_reason == "error" else next(rewards) for c in row]
        for row, rewards in zip(candidates, scored, strict=True)
    ]


class RewardScorer:
    """Weighs answers by a reward model's scores and their experts' records, combined by `mixture`.

    The model is called once for a whole batch. An answer that it cannot judge weighs nothing; where it can judge none
    of a query's answers, the experts' records alone decide.
    """

    def __init__(self, model: RewardModel, mixture: Mixture) -> None:
        self.model, self.mixture = model, mixture

    def weigh(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        recruitments: Sequence[Recruitment],
    ) -> list[list[Verdict]]:
        """One verdict per candidate of each query, in order, with the reward behind it."""
        rewards = judge(self.model, queries, candidates)
        plain = RecordScorer().weigh(queries, candidates, recruitments)
        return [self._verdicts(*row) for row in zip(rewards, plain, recruitments, strict=True)]

    def _verdicts(self, rewards: Sequence[Reward], plain: Sequence[Verdict], recruitment: Recruitment) -> list[Verdict]:
        scores = [reward.score for reward in rewards]
        weights = [verdict.weight for verdict in plain]
        if any(score is not None for score in scores):
            shares = [recruitment.shares.get(verdict.expert, 0.0) for verdict in plain]
            weights = self.mixture.weigh(scores, shares)
        return [
            replace(verdict, weight=weight, reward=reward)
            for verdict, weight, reward in zip(plain, weights, rewards, strict=True)
        ]
