"""symmoe's recruiters in a replay: the code that serves questions, on a taxonomy learned from the training sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symmoe.evaluation.replay.routers import Embedded, Embeddings, Route, Shares, pick, stacked
from symmoe.protocols import Embedder
from symmoe.routing.facets import facets_of
from symmoe.routing.learning import learn_taxonomy
from symmoe.routing.profiles import build_profile, parents_of
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.routing.recruiters.published import PublishedRecruiter
from symmoe.routing.tagging import EmbeddingTagger
from symmoe.types import Profiles, Skills

SKILLS_PER_QUERY, LEAST_SIMILARITY = 5, 0.3


@dataclass(frozen=True, slots=True)
class Trained:
    """What was learned from training sets: a tagger over the learned taxonomy, and every model's record."""

    tagger: EmbeddingTagger
    profiles: Profiles

    def tag(self, questions: Sequence[str], vectors: Embeddings) -> list[Skills]:
        """The skills of questions whose vectors are known."""
        return _tag(self.tagger, questions, vectors)


def train_on(train: Sequence[Embedded], seed: int, embedder: Embedder, every_topic: bool = False) -> Trained:
    """Learn topics from the questions alone, then count what each model earned on them."""
    vectors, scores = stacked(train)
    questions = [question for each in train for question in each.recorded.questions]
    forms = [facets_of(question)[0] for question in questions]
    tagger = EmbeddingTagger(
        embedder, learn_taxonomy(questions, vectors, forms, seed), SKILLS_PER_QUERY, LEAST_SIMILARITY
    )
    skills = _tag(tagger, questions, vectors)
    models = train[0].recorded.models
    records = {
        model: build_profile(model, skills, scores[:, column].tolist(), every_topic=every_topic)
        for column, model in enumerate(models)
    }
    return Trained(tagger, Profiles(records, parents_of(skills)))


def fit_symmoe(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The expert with the best posterior accuracy: our recruiter with one slot."""
    trained = train_on(train, seed, embedder)
    recruiter = PosteriorRecruiter(trained.profiles)

    def route(asked: Embedded) -> Shares:
        return pick(recruiter.values(trained.tag(asked.recorded.questions, asked.vectors)).astype(np.float64))

    return route


def fit_symbolic_moe(train: Sequence[Embedded], seed: int, embedder: Embedder) -> Route:
    """The published rule, one draw: judged by its expectation over draws.

    Its keywords are our learned topics, since annotating by an LLM would mean running one.
    """
    trained = train_on(train, seed, embedder, every_topic=True)
    recruiter = PublishedRecruiter(trained.profiles)
    models = train[0].recorded.models

    def route(asked: Embedded) -> Shares:
        shares = [recruiter.shares(skills) for skills in trained.tag(asked.recorded.questions, asked.vectors)]
        return np.array([[own.get(model, 0.0) for model in models] for own in shares])

    return route


def _tag(tagger: EmbeddingTagger, questions: Sequence[str], vectors: Embeddings) -> list[Skills]:
    facets = [facets_of(question) for question in questions]
    topics = tagger.topics(vectors, facets)
    return [Skills(str(n), *found) for n, found in enumerate(zip(topics, facets, strict=True))]
