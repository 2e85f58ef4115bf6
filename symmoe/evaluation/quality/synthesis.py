"""A second layer: one expert answers after it has read what others answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symmoe.evaluation.quality.contest import Contest
from symmoe.evaluation.quality.spent import Spent
from symmoe.evaluation.wording import references
from symmoe.types import Candidate


def synthesise(
    contest: Contest, way: str, aggregator: str, candidates: Sequence[Sequence[Candidate]]
) -> tuple[tuple[str, ...], Spent]:
    """What `aggregator` makes of each question's candidates. `way` keeps the seeds of two ways apart."""
    window = contest.assembly.pool.engine.max_model_len
    texts = [[candidate.text for candidate in mine] for mine in candidates]
    worded = [
        replace(references(query, mine, window), id=f"{query.id}/{way}")
        for query, mine in zip(contest.queries, texts, strict=True)
    ]
    found, spent = contest.ask(worded, [[(aggregator, 0)]] * len(worded))
    return tuple(only.text for (only,) in found), spent
