from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.reading import SemanticClusters
from symmoe.aggregation.vote import ALONE, WAVES, VoteState, WeightedVote, contrasted, next_wave, vote_state
from symmoe.questions.families import support
from symmoe.scoring.weighing import weigh_by_records
from symmoe.types import Answer, Assignment, Belief, Message, Query, Recruitment, Sampling, Verdict, Vote
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


def test_a_query_without_its_verdicts_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        WeightedVote().aggregate(query("text"), [candidate("a", "1")], [])


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


some_weights = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(some_weights, st.floats(0, 1))
def test_no_answer_gains_and_something_is_left(given_weights: list[float], strength: float) -> None:
    groups = [[place] for place in range(len(given_weights))]
    left = contrasted(given_weights, groups, strength)
    assert all(0 <= now <= before for now, before in zip(left, given_weights, strict=True))
    assert any(left) == any(given_weights)


@given(some_weights)
def test_without_strength_weights_add_up(given_weights: list[float]) -> None:
    assert contrasted(given_weights, [range(len(given_weights))], 0.0) == [pytest.approx(sum(given_weights))]


def test_an_answer_that_only_strong_experts_give_can_pass_one_that_weak_ones_give_too() -> None:
    rows = [("a", "red", 0.4), ("b", "blue", 0.4), ("c", "blue", 0.1)]
    candidates, verdicts = [candidate(e, t) for e, t, _ in rows], [Verdict(e, 0, w) for e, _, w in rows]
    assert WeightedVote().aggregate(query("?"), candidates, verdicts).text == "blue"
    found = WeightedVote(contrast=0.2).aggregate(query("?"), candidates, verdicts)
    assert [(vote.answer, vote.experts) for vote in found.votes] == [("red", ("a",)), ("blue", ("b", "c"))]


INDEPENDENT, TOGETHER = Belief(overlap=0.0), Belief(overlap=1.0)
NOBODY = VoteState((), (), 0, 10)
LETTERS = query("Which?\n" + "\n".join(f"({letter}) {letter}" for letter in "ABCDEFGHIJ"))


def state_of(said: dict[str, str], accuracies: dict[str, float]) -> VoteState:
    """How a vote on ten options stands after experts of these accuracies said these letters."""
    recruited = Recruitment("q", tuple(Assignment("q", e, 0) for e in accuracies), accuracies, accuracies)
    candidates = [candidate(expert, text) for expert, text in said.items()]
    verdicts = weigh_by_records(LETTERS, candidates, recruited)
    return vote_state(LETTERS, recruited, verdicts, WeightedVote().aggregate(LETTERS, candidates, verdicts).votes)


@given(st.floats(0.11, 0.99), st.integers(3, 20))
def test_one_expert_alone_is_believed_as_far_as_it_is_accurate(accuracy: float, options: int) -> None:
    if accuracy > 1 / options:
        alone = NOBODY.joined(support(accuracy, options), 1.0)
        assert VoteState(alone.supports, alone.weights, 1, options).posterior(Belief()) == pytest.approx(
            accuracy, abs=1e-3
        )


def test_two_independent_witnesses_are_believed_by_the_rule_of_bayes() -> None:
    both = state_of({"a": "B", "b": "B"}, {"a": 0.5, "b": 0.4})
    right, wrong = 0.5 * 0.4, (0.5 / 9) * (0.6 / 9)
    assert both.posterior(INDEPENDENT) == pytest.approx(right / (right + 9 * wrong))


def test_experts_that_err_together_are_one_witness() -> None:
    alone, both = state_of({"a": "B"}, {"a": 0.5, "b": 0.5}), state_of({"a": "B", "b": "B"}, {"a": 0.5, "b": 0.5})
    assert both.posterior(TOGETHER) == pytest.approx(alone.posterior(TOGETHER))
    assert both.posterior(INDEPENDENT) > both.posterior(Belief()) > alone.posterior(Belief())


def test_an_expert_without_a_readable_answer_is_no_voter() -> None:
    accuracies = {"a": 0.5, "b": 0.6}
    assert state_of({"a": "B", "b": "no idea"}, accuracies).voters == 2
    assert state_of({"a": "B", "b": ""}, accuracies) == state_of({"a": "B"}, accuracies)
    assert state_of({"b": ""}, accuracies).posterior(Belief()) == 0.0


def test_corrections_are_those_of_as_many_voters() -> None:
    belief = Belief(0.0, ((1.0, 0.0), (0.5, -1.0)))
    one, two = state_of({"a": "B"}, {"a": 0.5}), state_of({"a": "B", "b": "B"}, {"a": 0.5, "b": 0.5})
    assert one.posterior(belief) == pytest.approx(0.5)
    plain = two.posterior(INDEPENDENT)
    wanted = 0.5 * math.log(plain / (1 - plain)) - 1
    assert two.posterior(belief) == pytest.approx(1 / (1 + math.exp(-wanted)))
    assert two.joined(1.0, 1.0).posterior(belief) < 1 / (1 + math.exp(-wanted - 1))


LEFT = st.lists(st.tuples(st.floats(0, 4), st.floats(0, 1)), max_size=6)


@given(LEFT, st.floats(0, 1), st.integers(0, WAVES))
def test_a_wave_is_never_larger_than_who_is_left_nor_empty_before_anything_is_known(
    left: list[tuple[float, float]], quality: float, waves: int
) -> None:
    size = next_wave(NOBODY, left, quality, Belief(), waves)
    assert 0 <= size <= len(left)
    assert size > 0 or not left or (waves and quality == 0)
    assert waves < WAVES - 1 or size in (0, len(left))


def test_nobody_else_is_asked_once_the_dial_is_reached_or_the_answer_stands_anyway() -> None:
    left = [(2.0, 0.2), (2.0, 0.2)]
    sure = VoteState((4.0,), (0.6,), 1, 10)
    assert next_wave(sure, left, 0.8, Belief(), 1) == 0
    assert next_wave(sure, left, 1.0, Belief(), 1) == 0, "0.6 outweighs 0.4, whatever they say"
    assert next_wave(VoteState((4.0,), (0.3,), 1, 10), left, 1.0, Belief(), 1) == 1, "0.5 would outweigh 0.2"


def test_a_wave_has_as_many_as_could_bring_the_answer_to_the_dial() -> None:
    left = [(support(0.5, 10), 0.25)] * 4
    sizes = [next_wave(NOBODY, left, quality, Belief(), 0) for quality in (0.4, 0.7, 0.85)]
    assert sizes == [2, 2, 3]


def test_only_an_expert_that_is_nearly_always_right_is_asked_alone_at_first() -> None:
    for accuracy, size in ((ALONE - 0.01, 2), (ALONE + 0.01, 1)):
        left = [(support(accuracy, 10), 1.0)] * 4
        assert next_wave(NOBODY, left, 0.4, Belief(), 0) == size
        assert next_wave(NOBODY, left[:1], 0.4, Belief(), 0) == 1
    weak = [(support(0.5, 10), 0.25)] * 4
    assert next_wave(VoteState((0.1,), (0.1,), 1, 10), weak, 0.3, Belief(), 1) == 1, "later waves may have one"
