"""Questions kept apart from those that profiles and gates were made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random

from symmoe.errors import SuiteError
from symmoe.questions.families import FAMILIES
from symmoe.questions.splits import draw, mixed_suite
from symmoe.questions.suites import read_suite
from symmoe.types import Question

Suites = dict[str, list[Question]]


def read_suites(paths: Sequence[Path]) -> Suites:
    """Suites by file name; `SuiteError` names what is wrong, also an id that stands in two of them."""
    suites: Suites = {}
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in suites:
            raise SuiteError(f"{path}: another suite is named {path.stem!r}", hint="rename one of the files")
        suites[path.stem] = read_suite(path)
        for question in suites[path.stem]:
            if question.id in seen:
                raise SuiteError(f"{path}: id {question.id!r} stands in {seen[question.id]} too")
            seen[question.id] = path
    return suites


def kept_apart(per_family: int, seed: int) -> Suites:
    """Two suites of the test split: `even`, and `uneven` of about as many, families mixed by chance, of the next seed.

    No question stands in both.
    """
    even = mixed_suite(list(FAMILIES), per_family, "test", seed)
    known = {question.question for question in even}
    rng = Random(seed)
    weights = [rng.expovariate(1.0) for _ in FAMILIES]
    counts = Counter(rng.choices(list(FAMILIES), weights, k=len(even)))
    uneven = [
        question
        for family, count in sorted(counts.items())
        for question in islice((q for q in draw(family, "test", seed + 1) if q.question not in known), count)
    ]
    rng.shuffle(uneven)
    return {"even": even, "uneven": uneven}
