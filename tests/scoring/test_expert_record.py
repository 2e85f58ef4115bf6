from __future__ import annotations

import math
from dataclasses import replace

import pytest

from symmoe.aggregation.vote import WeightedVote
from symmoe.scoring.expert_record import RecordScorer, weigh
from symmoe.types import Candidate, Recruitment, Verdict
from tests.fakes import candidate, query

SHARES = Recruitment("q", (), {"a": 0.75, "b": 0.25})


def weighed(candidates: list[Candidate]) -> list[Verdict]:
    return RecordScorer().weigh([query("text")], [candidates], [SHARES])[0]


def test_a_candidate_weighs_the_share_with_which_its_expert_was_recruited() -> None:
    asked = [candidate("b", "5"), candidate("a", "6"), candidate("b", "7", slot=1)]
    assert weighed(asked) == [Verdict("b", 0, 0.25), Verdict("a", 0, 0.75), Verdict("b", 1, 0.25)]


def test_an_empty_or_failed_generation_weighs_nothing() -> None:
    asked = [candidate("a", ""), replace(candidate("a", "half", slot=1), finish_reason="error")]
    assert [v.weight for v in weighed(asked)] == [0.0, 0.0]


def test_an_answer_cut_for_its_length_still_counts() -> None:
    cut = replace(candidate("a", "half"), finish_reason="length")
    assert weighed([cut]) == [Verdict("a", 0, 0.75)]


def test_where_accuracies_are_known_a_candidate_weighs_their_log_odds_among_the_options_listed() -> None:
    recruited = replace(SHARES, accuracies={"a": 0.75, "b": 0.2})
    asked = query("Which? A. one B. two C. three D. four E. five")
    (verdicts,) = RecordScorer().weigh([asked], [[candidate("a", "A"), candidate("b", "B")]], [recruited])
    assert [verdict.weight for verdict in verdicts] == pytest.approx([math.log(0.75 * 4 / 0.25), 0.0])


def test_two_fair_experts_who_agree_outvote_a_better_one() -> None:
    recruited = Recruitment("q", (), {"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 0.6, "b": 0.5, "c": 0.5})
    asked = query("Which? A. one B. two C. three D. four E. five")
    found = [candidate("a", "A"), candidate("b", "B"), candidate("c", "B")]
    (verdicts,) = RecordScorer().weigh([asked], [found], [recruited])
    assert WeightedVote().aggregate(asked, found, verdicts).text == "B"


def test_an_expert_that_has_no_share_weighs_nothing() -> None:
    assert weighed([candidate("c", "5")]) == [Verdict("c", 0, 0.0)]


def test_every_query_is_weighed_by_its_own_shares() -> None:
    other = Recruitment("r", (), {"a": 1.0})
    queries = [query("text", "q"), query("text", "r")]
    asked = [[candidate("a", "5")], [candidate("a", "5", ident="r")]]
    verdicts = weigh(RecordScorer(), queries, asked, [SHARES, other])
    assert [[v.weight for v in row] for row in verdicts] == [[0.75], [1.0]]


def test_candidates_of_fewer_queries_than_there_are_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weigh(RecordScorer(), [query("text")], [], [SHARES])
