"""Disjoint splits of a family's questions: train, profile, test.

Two fences keep the splits apart. Each split draws from its own range of seeds, and each question belongs to the split
that a hash of its text names, so that a question drawn twice by chance still appears in one split only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Literal

from symmoe.questions.families import FAMILIES
from symmoe.types import Question

Split = Literal["train", "profile", "test"]

_SEED_RANGE: dict[Split, int] = {"train": 1_000_000, "profile": 2_000_000, "test": 3_000_000}
_RANGE_SIZE = 1_000_000
_BUCKETS: dict[Split, range] = {"train": range(80), "profile": range(80, 90), "test": range(90, 100)}


def split_of(question: str) -> Split:
    """The split that owns a question's text: 80 % train, 10 % profile, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % 100
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def draw(family: str, split: Split, seed: int) -> Iterator[Question]:
    """Draw distinct questions of one family and split without end (or until the family runs dry).

    `seed` is an offset into the split's own range of seeds, so no two splits ever share a seed.
    """
    if not 0 <= seed < _RANGE_SIZE:
        raise ValueError(f"seed must be between 0 and {_RANGE_SIZE - 1}, not {seed}")
    kind = FAMILIES[family]
    rng = Random(f"{family}/{_SEED_RANGE[split] + seed}")
    seen: set[str] = set()
    barren = 0
    while barren < 2000:
        text, answer = kind.draw(rng)
        if text in seen or split_of(text) != split:
            barren += 1
            continue
        seen.add(text)
        barren = 0
        yield Question(f"{family}-{split}-{seed}-{len(seen):04d}", text, answer, family, kind.scorer)


def mixed_suite(families: list[str], per_family: int, split: Split, seed: int) -> list[Question]:
    """A shuffled suite of `per_family` questions of every family."""
    suite = [question for name in families for question in islice(draw(name, split, seed), per_family)]
    Random(seed).shuffle(suite)
    return suite
