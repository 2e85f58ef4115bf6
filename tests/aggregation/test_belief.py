"""How far a vote is believed, and whom that makes worth asking."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.belief import ALONE, WAVES, VoteState, further, standing
from symmoe.aggregation.vote import WeightedVote
from symmoe.questions.options import support
from symmoe.scoring.expert_record import weigh_by_records
from symmoe.types import Assignment, Belief, Recruitment
from tests.fakes import candidate, query

INDEPENDENT, TOGETHER = Belief(overlap=0.0), Belief(overlap=1.0)
NOBODY = VoteState((), (), 0, 10)
LETTERS = query("Which?\n" + "\n".join(f"({letter}) {letter}" for letter in "ABCDEFGHIJ"))


def vote(said: dict[str, str], accuracies: dict[str, float]) -> VoteState:
    """How a vote on ten options stands after experts of these accuracies said these letters."""
    recruited = Recruitment("q", tuple(Assignment("q", e, 0) for e in accuracies), accuracies, accuracies)
    candidates = [candidate(expert, text) for expert, text in said.items()]
    verdicts = weigh_by_records(LETTERS, candidates, recruited)
    return standing(LETTERS, recruited, verdicts, WeightedVote().aggregate(LETTERS, candidates, verdicts).votes)


@given(st.floats(0.11, 0.99), st.integers(3, 20))
def test_one_expert_alone_is_believed_as_far_as_it_is_accurate(accuracy: float, options: int) -> None:
    if accuracy > 1 / options:
        alone = NOBODY.joined(support(accuracy, options), 1.0)
        assert VoteState(alone.supports, alone.weights, 1, options).posterior(Belief()) == pytest.approx(
            accuracy, abs=1e-3
        )


def test_two_independent_witnesses_are_believed_by_the_rule_of_bayes() -> None:
    both = vote({"a": "B", "b": "B"}, {"a": 0.5, "b": 0.4})
    right, wrong = 0.5 * 0.4, (0.5 / 9) * (0.6 / 9)
    assert both.posterior(INDEPENDENT) == pytest.approx(right / (right + 9 * wrong))


def test_experts_that_err_together_are_one_witness() -> None:
    alone, both = vote({"a": "B"}, {"a": 0.5, "b": 0.5}), vote({"a": "B", "b": "B"}, {"a": 0.5, "b": 0.5})
    assert both.posterior(TOGETHER) == pytest.approx(alone.posterior(TOGETHER))
    assert both.posterior(INDEPENDENT) > both.posterior(Belief()) > alone.posterior(Belief())


def test_an_expert_without_a_readable_answer_is_no_voter() -> None:
    accuracies = {"a": 0.5, "b": 0.6}
    assert vote({"a": "B", "b": "no idea"}, accuracies).voters == 2
    assert vote({"a": "B", "b": ""}, accuracies) == vote({"a": "B"}, accuracies)
    assert vote({"b": ""}, accuracies).posterior(Belief()) == 0.0


def test_corrections_are_those_of_as_many_voters() -> None:
    belief = Belief(0.0, ((1.0, 0.0), (0.5, -1.0)))
    one, two = vote({"a": "B"}, {"a": 0.5}), vote({"a": "B", "b": "B"}, {"a": 0.5, "b": 0.5})
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
    size = further(NOBODY, left, quality, Belief(), waves)
    assert 0 <= size <= len(left)
    assert size > 0 or not left or (waves and quality == 0)
    assert waves < WAVES - 1 or size in (0, len(left))


def test_nobody_else_is_asked_once_the_dial_is_reached_or_the_answer_stands_anyway() -> None:
    left = [(2.0, 0.2), (2.0, 0.2)]
    sure = VoteState((4.0,), (0.6,), 1, 10)
    assert further(sure, left, 0.8, Belief(), 1) == 0
    assert further(sure, left, 1.0, Belief(), 1) == 0, "0.6 outweighs 0.4, whatever they say"
    assert further(VoteState((4.0,), (0.3,), 1, 10), left, 1.0, Belief(), 1) == 1, "0.5 would outweigh 0.2"


def test_a_wave_has_as_many_as_could_bring_the_answer_to_the_dial() -> None:
    left = [(support(0.5, 10), 0.25)] * 4
    sizes = [further(NOBODY, left, quality, Belief(), 0) for quality in (0.4, 0.7, 0.85)]
    assert sizes == [2, 2, 3]


def test_only_an_expert_that_is_nearly_always_right_is_asked_alone_at_first() -> None:
    for accuracy, size in ((ALONE - 0.01, 2), (ALONE + 0.01, 1)):
        left = [(support(accuracy, 10), 1.0)] * 4
        assert further(NOBODY, left, 0.4, Belief(), 0) == size
        assert further(NOBODY, left[:1], 0.4, Belief(), 0) == 1
    weak = [(support(0.5, 10), 0.25)] * 4
    assert further(VoteState((0.1,), (0.1,), 1, 10), weak, 0.3, Belief(), 1) == 1, "later waves may have one"
