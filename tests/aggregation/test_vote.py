from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.clustering import SemanticClusters
from symmoe.aggregation.vote import WeightedVote, aggregate
from symmoe.types import Answer, Candidate, Message, Query, Sampling, Verdict, Vote
from tests.fakes import WordEmbedder, candidate, query

Ballot = tuple[str, str, float]
# eighths add up exactly, in any order
ballots = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["red", "blue", "green", ""]), st.integers(0, 16)), min_size=1
).map(lambda rows: [(expert, text, eighths / 8) for expert, text, eighths in rows])


def vote(rows: list[Ballot], asked: Query | None = None, shared: tuple[int, ...] = ()) -> Answer:
    candidates = [candidate(expert, text, slot, "q", slot in shared) for slot, (expert, text, _) in enumerate(rows)]
    verdicts = [Verdict(expert, slot, weight) for slot, (expert, _, weight) in enumerate(rows)]
    return WeightedVote().aggregate(asked or query("text"), candidates, verdicts)


def weights(rows: list[Ballot]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for _, text, weight in rows:
        sums[text] += weight
    return sums


@given(ballots)
def test_no_answer_weighs_more_than_the_winner(rows: list[Ballot]) -> None:
    found = vote(rows)
    readable = {text: weight for text, weight in weights(rows).items() if text}
    if readable:
        assert readable[found.text] == max(readable.values())
    else:
        assert found.text == ""


@given(ballots)
def test_the_winning_words_are_credited_to_an_expert_that_wrote_them_with_the_most_weight(rows: list[Ballot]) -> None:
    found = vote(rows)
    own = [(weight, expert) for expert, text, weight in rows if text == found.text]
    assert (max(own)[0], found.expert) in own
    assert found.query_id == "q"


@given(ballots)
def test_every_distinct_answer_is_told_once_with_its_share_and_all_its_experts(rows: list[Ballot]) -> None:
    found = vote(rows)
    sums = weights(rows)
    whole = sum(sums.values()) or 1.0
    assert sorted(v.answer for v in found.votes) == sorted(sums)
    for told in found.votes:
        assert told.share == pytest.approx(sums[told.answer] / whole, abs=1e-4)
        assert set(told.experts) == {expert for expert, text, _ in rows if text == told.answer}
        assert len(set(told.experts)) == len(told.experts)
    assert found.votes[0].answer == found.text


@given(ballots)
def test_votes_come_heaviest_first_and_what_cannot_be_read_last(rows: list[Ballot]) -> None:
    told = [v for v in vote(rows).votes if v.answer]
    assert [v.share for v in told] == sorted((v.share for v in told), reverse=True)
    assert "" not in [v.answer for v in vote(rows).votes[:-1]]


def test_a_worked_vote() -> None:
    rows = [("a", "Red.", 0.5), ("b", "blue", 0.375), ("c", "BLUE", 0.375), ("a", "", 0.0)]
    assert vote(rows) == Answer(
        query_id="q",
        text="blue",
        expert="b",
        votes=(Vote("blue", 0.6, ("b", "c"), (1, 2)), Vote("red", 0.4, ("a",), (0,)), Vote("", 0.0, ("a",), (3,))),
        finish_reason="stop",
        prompt_tokens=40,
        completion_tokens=20,
    )


def test_a_tie_goes_to_the_heaviest_single_candidate() -> None:
    assert vote([("a", "red", 0.25), ("b", "red", 0.25), ("c", "blue", 0.5)]).text == "blue"


def test_a_full_tie_goes_to_the_answer_recruited_first() -> None:
    assert vote([("a", "red", 0.5), ("b", "blue", 0.5)]).text == "red"
    assert vote([("a", "blue", 0.5), ("b", "red", 0.5)]).text == "blue"


def test_the_winner_speaks_in_the_words_of_its_heaviest_candidate() -> None:
    found = vote([("a", "12", 0.25), ("b", "It adds up; the answer is 12.", 0.5), ("c", "7", 0.5)])
    assert (found.text, found.expert) == ("It adds up; the answer is 12.", "b")


def test_an_unreadable_candidate_never_wins_against_a_readable_one_however_heavy() -> None:
    assert vote([("a", "", 0.9), ("b", "red", 0.1)]).text == "red"


def test_tokens_of_shared_candidates_are_not_counted() -> None:
    rows = [("a", "red", 0.5), ("a", "red", 0.5), ("b", "red", 0.5)]
    found = vote(rows, shared=(1,))
    assert (found.prompt_tokens, found.completion_tokens) == (20, 10)


def test_answers_of_one_value_vote_together_where_mathematics_is_asked_for() -> None:
    asked = Query("q", (Message("user", "Half of one?"),), Sampling(16), kind="math")
    found = vote([("a", "0.5", 0.25), ("b", r"\boxed{\frac{1}{2}}", 0.25), ("c", "0.6", 0.375)], asked)
    assert [v.share for v in found.votes] == pytest.approx([0.5714, 0.4286])
    assert found.votes[0].experts == ("a", "b")


def test_every_query_gets_its_own_answer() -> None:
    candidates: list[list[Candidate]] = [[candidate("a", "1", ident="x")], [candidate("b", "2", ident="y")]]
    verdicts = [[Verdict("a", 0, 1.0)], [Verdict("b", 0, 1.0)]]
    answers = aggregate(WeightedVote(), [query("text", "x"), query("text", "y")], candidates, verdicts)
    assert [(found.query_id, found.text, found.expert) for found in answers] == [("x", "1", "a"), ("y", "2", "b")]


def test_a_query_without_its_verdicts_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        aggregate(WeightedVote(), [query("text")], [[candidate("a", "1")]], [])


def test_words_of_a_failed_generation_give_no_answer() -> None:
    candidates = [replace(candidate("a", "7"), finish_reason="error"), candidate("b", "8")]
    found = WeightedVote().aggregate(query("?"), candidates, [Verdict("a", 0, 1.0), Verdict("b", 0, 0.1)])
    assert found.text == "8"
    assert [v.answer for v in found.votes] == ["8", ""]


def test_texts_that_are_alike_but_name_other_options_are_other_answers() -> None:
    asked = query("Which gas do plants take in?\n(A) carbon dioxide\n(B) oxygen")
    words = "Plants take in this gas through their leaves, so the answer is"
    candidates = [candidate("one", f"{words} (A)."), candidate("two", f"{words} (B).")]
    verdicts = [Verdict("one", 0, 0.6), Verdict("two", 0, 0.4)]
    votes = WeightedVote(SemanticClusters(WordEmbedder("plants", "gas"))).aggregate(asked, candidates, verdicts).votes
    assert [vote.answer for vote in votes] == ["A", "B"]
