"""What turns hidden states into a score: ratings on many objectives, and a gate that says which count for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symmoe.types import Reward

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class GatingNetwork:
    """Weights of the objectives from the prompt alone: softmax(MLP(prompt) / temperature) · scale (ArmoRM, §2.2).

    `layers` are (weight `[out, in]`, bias `[out]`), with ReLU between them; one layer makes a linear gate.
    """

    layers: tuple[tuple[Floats, Floats], ...]
    temperature: float
    scale: float

    def weigh(self, prompts: Floats) -> Floats:
        """Prompt states `[n, d]` to weights `[n, objectives]`, each row summing to `scale`."""
        signal = prompts
        for place, (weight, bias) in enumerate(self.layers):
            signal = (np.maximum(signal, 0.0) if place else signal) @ weight.T + bias
        signal = signal / np.float32(self.temperature)
        raised = np.exp(signal - signal.max(axis=1, keepdims=True))
        return np.asarray(self.scale * raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """score = Σⱼ gⱼ(prompt) · (rᵀT)ⱼ − r·p, where r are the answer's ratings less their `centre` (ArmoRM, §2.1–2.2).

    `weight` `[objectives, e]` and `bias` `[objectives]` rate an answer's state; `transform` `[objectives, objectives]`
    is T, which takes the length out of each objective; `penalty` `[objectives]` is p, which takes out of the score what
    the gate brought back. `centre` `[objectives]` keeps a gate from moving the scores of one prompt all at once.
    Penalty and centre are zero in ArmoRM.
    """

    objectives: tuple[str, ...]
    weight: Floats
    bias: Floats
    transform: Floats
    centre: Floats
    penalty: Floats
    gate: GatingNetwork

    def rate(self, answers: Floats) -> Floats:
        """Answer states `[n, e]` to raw ratings `[n, objectives]`."""
        return np.asarray(answers @ self.weight.T + self.bias, dtype=np.float32)

    def score(self, ratings: Floats, weights: Floats) -> Floats:
        """Raw ratings and the gate's weights, both `[n, objectives]`, to scores `[n]`."""
        centred = ratings - self.centre
        gated = (weights * (centred @ self.transform)).sum(axis=1)
        return np.asarray(gated - centred @ self.penalty, dtype=np.float32)

    def rewards(self, prompts: Floats, answers: Floats) -> list[Reward]:
        """Prompt states `[n, d]` and answer states `[n, e]` to rewards; states that are not finite get no score."""
        finite = np.asarray(np.isfinite(np.hstack([prompts, answers])).all(axis=1))
        ratings = self.rate(np.where(finite[:, None], answers, 0.0))
        weights = self.gate.weigh(np.where(finite[:, None], prompts, 0.0))
        scores = self.score(ratings, weights)
        return [
            Reward(float(score), self._named(rated), self._named(weighed))
            if known
            else Reward(None, note="the model's hidden state is not finite")
            for known, score, rated, weighed in zip(finite, scores, ratings, weights, strict=True)
        ]

    def _named(self, numbers: Sequence[float] | Floats) -> dict[str, float]:
        return {name: float(number) for name, number in zip(self.objectives, numbers, strict=True)}
