"""Small deterministic parts and short ways to write values, for tests of everything around a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.vote import WeightedVote
from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError
from symmoe.executor import InProcessExecutor
from symmoe.loading.images import NamedImages
from symmoe.loading.lanes import ExpertWeights, LaneLoader
from symmoe.pipeline import Parts
from symmoe.policy import Policy
from symmoe.protocols import Recruiter
from symmoe.routing.recruiters.published import PublishedRecruiter
from symmoe.scoring.weighing import RecordScorer
from symmoe.types import (
    Candidate,
    ExpertProfile,
    Image,
    Message,
    Profiles,
    Query,
    Question,
    Sampling,
    SkillMatch,
    Skills,
    Tally,
)


class WordEmbedder:
    """Counts the words of a small vocabulary, then scales to unit length; a text without any of them is all zeros."""

    def __init__(self, *vocabulary: str) -> None:
        self._vocabulary = vocabulary
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        counts = np.array([[text.lower().split().count(w) for w in self._vocabulary] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


class ScatteringEmbedder:
    """Places each text anywhere, and equal texts at equal places."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        drawn = [np.random.default_rng(list(text.encode())).standard_normal(16) for text in texts]
        rows = np.array(drawn, dtype=np.float32).reshape(len(texts), 16)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    def tokens(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)


class NamingTagger:
    """A query needs the skills whose names stand in it."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def tag(self, queries: Sequence[Query]) -> list[Skills]:
        return [skills(query.id, *(name for name in self._names if name in query.text)) for query in queries]


class FailingEngine(EchoEngine):
    """An echo engine whose next starts and swaps fail while `broken` is set."""

    broken = False

    def start(self, model: str, tags: Mapping[str, str]) -> None:
        if self.broken:
            raise EngineError(f"{model} did not start")
        super().start(model, tags)

    def swap(self, image: Image) -> int:
        if self.broken:
            raise EngineError(f"{image.key} was not swapped in")
        return super().swap(image)


def query(text: str, ident: str = "q", temperature: float = 0.0, seed: int | None = None) -> Query:
    return Query(ident, (Message("user", text),), Sampling(16, temperature, seed=seed))


def question(text: str, answer: str, family: str = "all", scorer: str = "exact", ident: str = "1") -> Question:
    return Question(ident, text, answer, family, scorer)  # type: ignore[arg-type]


def skills(ident: str, *names: str) -> Skills:
    return Skills(ident, tuple(SkillMatch(name, 1.0) for name in names))


def tally(score: int) -> Tally:
    """So many right answers, or wrong ones where negative."""
    return Tally(max(score, 0), max(-score, 0))


def profile(expert: str, scores: Mapping[str, int]) -> ExpertProfile:
    tallies = {skill: tally(score) for skill, score in scores.items()}
    overall = Tally(sum(t.right for t in tallies.values()), sum(t.wrong for t in tallies.values()))
    return ExpertProfile(expert, tallies, overall)


def profiles(scores: Mapping[str, Mapping[str, int]]) -> Profiles:
    """Records that earn these scores, on topics that share no facet."""
    topics = sorted({skill for record in scores.values() for skill in record})
    return Profiles({expert: profile(expert, record) for expert, record in scores.items()}, dict.fromkeys(topics, ""))


def candidate(expert: str, text: str, slot: int = 0, ident: str = "q", shared: bool = False) -> Candidate:
    return Candidate(ident, expert, slot, text, "stop", 10, 5, "resident", shared)


def always(recruiter: Recruiter) -> Callable[[Policy], Recruiter]:
    """One recruiter, whatever the policy."""
    return lambda policy: recruiter


def everyone(k: int) -> Policy:
    """Whoever is recruited is asked, however far the first is trusted."""
    return Policy(k, aggregate="always")


def echo_parts(
    records: Mapping[str, Mapping[str, int]],
    weights: Callable[[str], ExpertWeights] = lambda expert: ExpertWeights("base", expert),
    engine: EchoEngine | None = None,
) -> Parts:
    """A whole pipeline over an echo engine; each expert's answer begins with its own name."""
    engine = engine or EchoEngine(window=20)
    recruiter = PublishedRecruiter(profiles(records))
    names = sorted({name for record in records.values() for name in record})
    executor = InProcessExecutor(engine, LaneLoader(engine, weights, NamedImages()))
    models = {expert: weights(expert).model for expert in records}
    return Parts(NamingTagger(*names), always(recruiter), executor, RecordScorer(), WeightedVote(), models)
