"""Routers to compare with: each is fitted on training sets alone and then picks one model for each question.

A pick is a matrix of shares, `[questions, models]`, rows summing to one: a router that draws at random is judged by its
expectation, without the noise of a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.evaluation.replay.records import RecordedSet
from symmoe.protocols import Embedder

Shares = NDArray[np.float64]
Embeddings = NDArray[np.float32]

NEIGHBOURS = 80
CLUSTERS = 32
RIDGE_ALPHA = 10.0


@dataclass(frozen=True, slots=True)
class Embedded:
    """A recorded set with one unit row of `[n, d]` for each of its questions."""

    recorded: RecordedSet
    vectors: Embeddings


Route = Callable[[Embedded], Shares]
"""A fitted router. Of the set it is given, it may look at questions and vectors, never at scores (the oracle does)."""
Fit = Callable[[Sequence[Embedded], int, Embedder], Route]
"""Fits a router on training sets, with a seed; the embedder is the one that gave the vectors."""


def fit_random(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """Every model equally often."""
    models = len(train[0].recorded.models)
    return lambda asked: np.full((len(asked.vectors), models), 1 / models)


def fit_best_single(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The model with the best mean over the training sets, for everything."""
    means = np.mean([each.recorded.scores.mean(axis=0) for each in train], axis=0)
    return lambda asked: one_hot(np.full(len(asked.vectors), means.argmax()), len(means))


def fit_dataset_best(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """Told which set a question is from: that set's best model in training; the best single one for unseen sets."""
    best = {each.recorded.name: int(each.recorded.scores.mean(axis=0).argmax()) for each in train}
    otherwise = fit_best_single(train, seed, embedder)
    models = len(train[0].recorded.models)

    def route(asked: Embedded) -> Shares:
        if asked.recorded.name not in best:
            return otherwise(asked)
        return one_hot(np.full(len(asked.vectors), best[asked.recorded.name]), models)

    return route


def fit_knn(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The model with the best mean over the nearest training questions."""
    from sklearn.neighbors import KNeighborsRegressor

    vectors, scores = stacked(train)
    fitted = KNeighborsRegressor(min(NEIGHBOURS, len(vectors)), metric="cosine").fit(vectors, scores)
    return lambda asked: pick(fitted.predict(asked.vectors))


def fit_clusters(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The best model of the question's k-means cluster (the Avengers, arXiv 2505.19797, without their vote)."""
    from sklearn.cluster import KMeans

    vectors, scores = stacked(train)
    fitted = KMeans(min(CLUSTERS, len(np.unique(vectors, axis=0))), n_init=4, random_state=seed).fit(vectors)
    means = np.stack([scores[fitted.labels_ == label].mean(axis=0) for label in range(fitted.n_clusters)])
    return lambda asked: pick(means[fitted.predict(asked.vectors)])


def fit_ridge(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The model with the highest score predicted by ridge regression on the embedding."""
    from sklearn.linear_model import Ridge

    vectors, scores = stacked(train)
    fitted = Ridge(RIDGE_ALPHA).fit(vectors, scores)
    return lambda asked: pick(fitted.predict(asked.vectors).reshape(len(asked.vectors), -1))


def fit_oracle(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The best model of each question, known from its scores: the bound that no router passes."""
    return lambda asked: pick(asked.recorded.scores)


def stacked(train: Sequence[Embedded]) -> tuple[Embeddings, Shares]:
    """Vectors and scores of all sets, one under the other."""
    return np.concatenate([e.vectors for e in train]), np.concatenate([e.recorded.scores for e in train])


def pick(predicted: Shares) -> Shares:
    """All of each question's share to the expert with the highest prediction."""
    return one_hot(predicted.argmax(axis=1), predicted.shape[1])


def one_hot(picked: NDArray[np.intp], models: int) -> Shares:
    """All of each question's share to the expert picked."""
    return np.eye(models)[picked]
