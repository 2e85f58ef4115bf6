"""Builds the parts that make one answer of candidates, from the `aggregation` section of a pool file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from symmoe.aggregation.consensus import ConsensusRule, read_rule
from symmoe.aggregation.prompting import TokenCounter, Window, estimated_tokens
from symmoe.aggregation.reading import SemanticClusters
from symmoe.aggregation.synthesis import Synthesis, best_aggregator, by_kind
from symmoe.aggregation.vote import WeightedVote
from symmoe.config import Pool
from symmoe.engines.chat import ChatTokenizer
from symmoe.errors import PoolError
from symmoe.protocols import Embedder
from symmoe.types import Message, Profiles, Query, Sampling

AUTO = "auto"
"""As the name of the aggregator: for each question whoever is best on record."""


def build_vote(pool: Pool, embedder: Embedder) -> WeightedVote:
    """The vote that the pool file describes; `embedder` is used only for free-form texts."""
    return WeightedVote(_clusters(pool, embedder), pool.aggregation.contrast)


def aggregator_of(pool: Pool, profiles: Callable[[], Profiles]) -> str | None:
    """The pool's aggregator; the best over all kinds of answers if each kind has its own. None if it has none.

    Raises `PoolError` for an aggregator outside the pool, and if it is to come from records that nobody has.
    """
    name = pool.aggregation.aggregator
    if name is None:
        return None
    if not _chosen(pool):
        return pool.expert(name).name
    best = best_aggregator(profiles())
    if best is None:
        raise PoolError(
            f"pool {pool.name!r}: aggregator `auto`, but nobody's aggregation is on record",
            hint="measure it with `symmoe aggregator bench`, or name an expert",
        )
    return best


def build_synthesis(
    pool: Pool, embedder: Embedder, directory: Callable[[str], str], profiles: Callable[[], Profiles]
) -> Synthesis | None:
    """How the pool's aggregator is asked, or None if every answer is the vote's.

    `directory` gives the model directory of an expert. Raises `PoolError` for an aggregator outside the pool and for an
    unreadable rule.
    """
    config = pool.aggregation
    aggregator = aggregator_of(pool, profiles)
    if aggregator is None:
        return None
    rule = read_rule(pool.path(config.rule)) if config.rule else ConsensusRule()
    if config.when == "never":
        return None
    count = estimated_tokens if not pool.engine.runs_models else _counter(lambda: directory(aggregator), pool)
    window = Window(pool.engine.max_model_len, count, config.max_candidates)
    choose = by_kind(profiles(), aggregator) if _chosen(pool) else lambda query: aggregator
    return Synthesis(choose, config.when, rule, window, _clusters(pool, embedder))


def rule_files(pool: Pool) -> list[Path]:
    """The files of the section that can change an answer."""
    return [pool.path(pool.aggregation.rule)] if pool.aggregation.rule else []


def aggregator_last(last: str | None, models: Mapping[str, str]) -> dict[str, str]:
    """Experts and their models in an order that ends with the aggregator's, so that it is still loaded when asked."""
    if last is None or last not in models:
        return dict(models)
    order = sorted(models, key=lambda expert: (models[expert] == models[last], expert == last))
    return {expert: models[expert] for expert in order}


def _chosen(pool: Pool) -> bool:
    """Whether records decide who aggregates."""
    return pool.aggregation.aggregator == AUTO and AUTO not in pool.names


def _clusters(pool: Pool, embedder: Embedder) -> SemanticClusters:
    return SemanticClusters(embedder, pool.aggregation.similarity)


def _counter(directory: Callable[[], str], pool: Pool) -> TokenCounter:
    """Counts with the aggregator's own tokenizer and template, which is read when it is first asked."""

    @cache
    def tokenizer() -> ChatTokenizer:
        return ChatTokenizer(directory(), pool.engine.max_model_len)

    return lambda text: len(tokenizer().encode(Query("", (Message("user", text),), Sampling(1))))
