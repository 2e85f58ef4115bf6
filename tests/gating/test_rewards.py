from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from symmoe.gating.rewards import FAILED, judge
from symmoe.types import Query, Reward
from tests.fakes import candidate, query


class Lengths:
    """Scores a text by its length, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        self.shown = [list(row) for row in candidates]
        return [[Reward(float(len(text))) for text in row] for row in candidates]


def test_failed_generations_are_not_read_and_the_others_keep_their_places() -> None:
    failed = replace(candidate("b", "half an answ"), finish_reason="error")
    rows = [[failed, candidate("a", "yes"), failed, candidate("c", "y")], [failed], []]
    model = Lengths()
    rewards = judge(model, [query("one"), query("two", "r"), query("three", "s")], rows)
    assert rewards == [[FAILED, Reward(3.0), FAILED, Reward(1.0)], [FAILED], []]
    assert FAILED.score is None
    assert model.shown == [["yes", "y"], [], []]
