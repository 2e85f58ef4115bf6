from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import pytest

from symmoe.protocols import RewardModel
from symmoe.scoring.expert_record import weigh
from symmoe.scoring.mixing import Mixture
from symmoe.scoring.rewards import FAILED, RewardScorer, judge
from symmoe.types import Candidate, Query, Recruitment, Reward, Verdict
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


def verdicts(model: RewardModel, mixture: Mixture, rows: Sequence[Sequence[Candidate]]) -> list[list[Verdict]]:
    queries = [query("one", f"q{place}") for place in range(len(rows))]
    shares = Recruitment("q", (), {"a": 0.6, "b": 0.4})
    return weigh(RewardScorer(model, mixture), queries, rows, [shares] * len(rows))


def test_the_scorer_weighs_by_reward_and_record_and_tells_the_reward() -> None:
    row = [candidate("a", "yes"), candidate("b", "no")]
    found = verdicts(Lengths(), Mixture(2.0, 1.0), [row])[0]
    raised = [exp(3 / 2) * 0.6, exp(2 / 2) * 0.4]
    assert [v.weight for v in found] == pytest.approx([x / sum(raised) for x in raised])
    assert [v.reward for v in found] == [Reward(3.0), Reward(2.0)]
    assert [(v.expert, v.slot) for v in found] == [("a", 0), ("b", 0)]


class Asked(Lengths):
    """Counts how often it is asked; texts of one letter have no score."""

    times = 0

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        self.times += 1
        rows = super().score(queries, candidates)
        return [[Reward(None, note="short") if r.score == 1 else r for r in row] for row in rows]


def test_the_model_is_asked_once_for_a_batch_and_what_has_no_score_weighs_nothing() -> None:
    model = Asked()
    failed = replace(candidate("a", "half an answ"), finish_reason="error")
    rows = [[candidate("a", "y"), candidate("b", "yes")], [failed, candidate("b", "no")]]
    found = verdicts(model, Mixture(), rows)
    assert model.times == 1
    assert [[v.weight for v in row] for row in found] == [[0.0, 1.0], [0.0, 1.0]]
    assert found[1][0].reward == FAILED


def test_where_nothing_can_be_judged_the_records_decide_and_failures_still_weigh_nothing() -> None:
    failed = replace(candidate("b", "half an answ"), finish_reason="error")
    found = verdicts(Asked(), Mixture(), [[candidate("a", "y"), candidate("b", "n")], [candidate("a", "y"), failed]])
    assert [[v.weight for v in row] for row in found] == [[0.6, 0.4], [0.6, 0.0]]


def test_the_scorer_of_no_candidates_gives_no_verdicts() -> None:
    assert verdicts(Lengths(), Mixture(), [[]]) == [[]]
