"""Synthetic answers whose truth is known.

An answer's state holds its quality on two objectives and its length; its ratings are the qualities with a length bias.
A prompt's state says which of two clusters it is of; in one the first quality is what people prefer, in the other the
second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.scoring.heads import Floats
from symmoe.scoring.small import PreferredAnswers, RatedAnswers

PROMPT_WIDTH, ANSWER_WIDTH = 6, 12
OBJECTIVES = ("correct", "polite")


@dataclass(frozen=True)
class World:
    """`mixing` takes (qualities, log length, 9 numbers of noise) into states; the cluster is in the prompt's first."""

    seed: int = 0
    bias: float = 0.8

    @property
    def mixing(self) -> NDArray[np.float64]:
        return np.linalg.qr(np.random.default_rng(1000 + self.seed).normal(size=(ANSWER_WIDTH, ANSWER_WIDTH)))[0]

    def answers(self, qualities: NDArray[np.float64], lengths: Floats, rng: np.random.Generator) -> Floats:
        noise = rng.normal(size=(len(qualities), ANSWER_WIDTH - 3))
        return np.hstack([qualities, np.log1p(lengths)[:, None], noise]).dot(self.mixing).astype(np.float32)

    def prompts(self, clusters: NDArray[np.intp], rng: np.random.Generator) -> Floats:
        states = rng.normal(size=(len(clusters), PROMPT_WIDTH))
        states[:, 0] = 4.0 * clusters - 2.0 + 0.2 * states[:, 0]
        return (5.0 + 3.0 * states).astype(np.float32)

    def rated(self, count: int, missing: float = 0.0, seed: int = 0) -> RatedAnswers:
        """Ratings grow with the length, and answers are longer in the second cluster."""
        rng = np.random.default_rng(seed)
        clusters = rng.integers(0, 2, count)
        qualities = rng.normal(size=(count, 2))
        lengths = np.exp(rng.normal(4.0 + 0.7 * clusters, 0.8)).astype(np.float32)
        ratings = 3.0 + qualities * (1.0, 0.3) + self.bias * np.log(lengths)[:, None] * (1.0, 0.3)
        ratings[rng.random(ratings.shape) < missing] = np.nan
        answers = self.answers(qualities, lengths, rng)
        return RatedAnswers(self.prompts(clusters, rng), answers, ratings.astype(np.float32), lengths)

    def preferred(self, count: int, seed: int = 7) -> tuple[PreferredAnswers, NDArray[np.intp]]:
        """Pairs in which the better answer is the shorter one as often as not, and each pair's cluster."""
        rng = np.random.default_rng(seed)
        clusters = rng.integers(0, 2, count)
        sides = rng.normal(size=(2, count, 2))
        lengths = np.exp(rng.normal(4.0, 0.8, size=(2, count))).astype(np.float32)
        deciding = sides[:, np.arange(count), clusters]
        first = deciding[0] > deciding[1]
        states = [self.answers(quality, length, rng) for quality, length in zip(sides, lengths, strict=True)]
        chosen, rejected = (np.where(side[:, None], *states) for side in (first, ~first))
        return PreferredAnswers(self.prompts(clusters, rng), chosen, rejected), clusters
