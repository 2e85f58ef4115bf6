"""Fields whose truth is known, and a reader that sees part of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from symmoe.scoring.heads import Floats
from symmoe.training.rated import Field
from symmoe.types import Assignment, Candidate, Query, Question, Recruitment
from tests.fakes import candidate, query

EXPERTS = ("a", "b", "c")


def field(count: int, seed: int = 0, shares: Sequence[float] = (0.4, 0.3, 0.3)) -> Field:
    """Questions to which `yes N` is right; each expert says it with probability a half, else `nah M`."""
    rng = np.random.default_rng(seed)
    asked = [Question(str(n), f"question {n}", f"yes {n}", "all", "exact") for n in range(count)]
    rows = [tuple(candidate(e, _said(q, rng, count), ident=q.id) for e in EXPERTS) for q in asked]
    standing = dict(zip(EXPERTS, shares, strict=True))
    recruitments = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in EXPERTS), standing) for q in asked]
    queries = tuple(query(q.question, q.id) for q in asked)
    return Field(tuple(asked), queries, tuple(rows), tuple(recruitments))


def _said(asked: Question, rng: np.random.Generator, count: int) -> str:
    return asked.answer if rng.random() < 0.5 else f"nah {rng.integers(count)}"


class Reader:
    """States of six numbers: in the first stands, blurred, whether a text says yes; in the second, its length."""

    def __init__(self, blur: float = 0.4) -> None:
        self._blur = blur

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        pairs = [(q.text, text) for q, row in zip(queries, candidates, strict=True) for text in row]
        states = [self._state(prompt, text) for prompt, text in pairs]
        prompts = [self._noise(prompt) for prompt, _ in pairs]
        return np.array(prompts, dtype=np.float32), np.array(states, dtype=np.float32)

    def _state(self, prompt: str, text: str) -> list[float]:
        noise = self._noise(prompt + text)
        told = float(text.startswith("yes")) + self._blur * noise[0]
        return [told, np.log1p(len(text)) + 0.02 * noise[1], *noise[2:]]

    def _noise(self, text: str) -> list[float]:
        drawn: list[float] = np.random.default_rng(list(text.encode())).normal(size=6).tolist()
        return drawn


def always(text: str, *experts: str) -> tuple[Candidate, ...]:
    return tuple(candidate(expert, text) for expert in experts)
