"""Judging the candidates of a batch by reading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symmoe.protocols import RewardModel
from symmoe.scoring.expert_record import RecordScorer
from symmoe.scoring.mixing import Mixture
from symmoe.types import Candidate, Query, Recruitment, Reward, Verdict

FAILED = Reward(None, note="the generation failed")


def judge(
    model: RewardModel, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]]
) -> list[list[Reward]]:
    """The model's reward of every candidate of every query, in order. Failed generations are not shown to it."""
    shown = [[c.text for c in row if c.finish_reason != "error"] for row in candidates]
    given = [iter(row) for row in model.score(queries, shown)]
    return [
        [FAILED if c.finish_reason == "error" else next(rewards) for c in row]
        for row, rewards in zip(candidates, given, strict=True)
    ]


class RewardScorer:
    """Weighs answers by what a reward model says of them and by the record of their experts, as `mixture` has it.

    The model is asked once for a whole batch. An answer that it cannot judge weighs nothing; where it can judge none of
    a query's answers, the experts' records alone decide.
    """

    def __init__(self, model: RewardModel, mixture: Mixture) -> None:
        self.model, self.mixture = model, mixture

    def weigh(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        recruitments: Sequence[Recruitment],
    ) -> list[list[Verdict]]:
        """One verdict per candidate of each query, in order, with the reward that it rests on."""
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
