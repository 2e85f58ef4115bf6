"""The same question in other words gets the same first expert."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from symmoe.build import Assembly
from symmoe.config import Pool, read_pool
from symmoe.types import Message, Query, Sampling

PARAPHRASES: list[list[str]] = yaml.safe_load((Path(__file__).parent / "paraphrases.yaml").read_text(encoding="utf-8"))


def first_experts(pool: Pool) -> list[list[str]]:
    """The first expert of each wording, question by question."""
    assembly = Assembly(pool)
    queries = [Query(w, (Message("user", w),), Sampling(16)) for wordings in PARAPHRASES for w in wordings]
    recruitments = assembly.recruiter.recruit(queries, assembly.tagger.tag(queries), 1, 0)
    firsts = iter([recruitment.assignments[0].expert for recruitment in recruitments])
    return [[next(firsts) for _ in wordings] for wordings in PARAPHRASES]


def agreement(firsts: list[list[str]]) -> float:
    """The fraction of rewordings that get the first expert of the first wording."""
    others = [other == first for first, *rest in firsts for other in rest]
    return sum(others) / len(others)


def test_every_question_stands_there_in_five_different_wordings() -> None:
    assert len(PARAPHRASES) >= 20
    assert all(len(set(wordings)) == 5 for wordings in PARAPHRASES)


@pytest.mark.parametrize("prefix", ["", "static:"])
def test_nine_in_ten_rewordings_get_the_same_first_expert(prefix: str) -> None:
    pool = read_pool("tiny")
    routing = pool.routing.model_copy(update={"embedder": f"{prefix}{pool.routing.embedder}"})
    firsts = first_experts(pool.model_copy(update={"routing": routing}))
    moved = [
        (wordings[0], wordings[i], own[0], own[i])
        for wordings, own in zip(PARAPHRASES, firsts, strict=True)
        for i in range(1, 5)
        if own[i] != own[0]
    ]
    assert agreement(firsts) >= 0.9, moved
