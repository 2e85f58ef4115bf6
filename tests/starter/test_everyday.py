"""The starter pool on everyday questions that are kept apart, on real weights: fetched, unpacked, asked in a batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from symmoe.asking import OpenPool, open_pool
from symmoe.profiles.grading import as_query, earned
from symmoe.questions.suites import everyday_suite
from symmoe.types import Trace

pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.fixture(scope="module")
def starter() -> Iterator[OpenPool]:
    with open_pool("starter") as opened:
        yield opened


def test_five_of_six_everyday_questions_are_answered_rightly(starter: OpenPool) -> None:
    questions = everyday_suite("test")
    results = starter.answer([as_query(question, starter.pool.sampling) for question in questions])
    right = earned(questions, results)
    wrong = [
        (q.question, r.answer.expert, r.answer.text)
        for q, r, ok in zip(questions, results, right, strict=True)
        if not ok and isinstance(r, Trace)
    ]
    assert sum(right) >= 5 / 6 * len(questions), wrong
    cut = [result for result in results if isinstance(result, Trace) and result.answer.finish_reason == "length"]
    assert len(cut) <= 2
