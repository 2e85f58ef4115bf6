"""Recorded scores made by hand: three topics, three models, each model good at one topic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from symmoe.evaluation.replay import compare
from symmoe.evaluation.replay.records import RecordedSet
from tests.fakes import ScatteringEmbedder, WordEmbedder

MODELS = ("first", "second", "third")
TOPICS = ("algebra", "botany", "cooking")


class TopicEmbedder(WordEmbedder):
    """Places a text near the axis of the topic that it names; equal texts come to lie at equal places."""

    def __init__(self, *vocabulary: str) -> None:
        super().__init__(*(vocabulary or TOPICS))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.hstack([super().embed(texts), 0.1 * ScatteringEmbedder().embed(texts)])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def recorded(name: str, size: int, weights: Sequence[float], models: Sequence[str] = MODELS) -> RecordedSet:
    """`weights` say how often each topic comes; the model at a topic's place earns 0.9 on it, the others 0.2."""
    rng = np.random.default_rng(size)
    topics = rng.choice(3, size=size, p=weights)
    scores = np.where(np.eye(3)[topics] == 1, 0.9, 0.2)
    return reordered(RecordedSet(name, _questions(topics), MODELS, scores), models)


def drawn(name: str, size: int, seed: int, good: float = 0.8, bad: float = 0.45) -> RecordedSet:
    """As `recorded`, but what is earned is left to chance, graded, and topics come equally often."""
    rng = np.random.default_rng([seed, size])
    topics = rng.integers(0, 3, size)
    chances = np.where(np.eye(3)[topics] == 1, good, bad)
    return RecordedSet(name, _questions(topics), MODELS, rng.beta(2 * chances, 2 * (1 - chances)))


def reordered(one: RecordedSet, models: Sequence[str]) -> RecordedSet:
    """The same scores with the models in another order."""
    order = [one.models.index(model) for model in models]
    return RecordedSet(one.name, one.questions, tuple(models), one.scores[:, order])


def with_useless(one: RecordedSet, place: int) -> RecordedSet:
    """The set with one more model, which is never right."""
    models = (*one.models[:place], "useless", *one.models[place:])
    return RecordedSet(one.name, one.questions, models, np.insert(one.scores, place, 0.0, axis=1))


def _questions(topics: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(f"{TOPICS[topic]} question {number}" for number, topic in enumerate(topics))


TRAIN = [recorded("mixed", 240, (0.4, 0.3, 0.3)), recorded("garden", 120, (0.1, 0.9, 0.0))]
TEST = [recorded("mixed", 90, (0.4, 0.3, 0.3)), recorded("kitchen", 60, (0.0, 0.1, 0.9))]


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are coarse and quickly found."""
    monkeypatch.setattr(compare, "RESAMPLES", 100)
