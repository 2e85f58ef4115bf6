"""One question on its way, given what it needs by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.synthesis import Synthesis
from symmoe.aggregation.verifier import Verifying
from symmoe.aggregation.vote import WAVES, WeightedVote
from symmoe.answering import (
    TOO_LONG,
    UNAVAILABLE,
    Ask,
    Done,
    Judging,
    Recruit,
    Reply,
    Routed,
    Weigh,
    Weighed,
    advance,
    answering,
)
from symmoe.policy import Policy
from symmoe.types import Assignment, Candidate, Recruitment, Refusal, Trace
from tests.aggregation.test_verifier import stump
from tests.fakes import query

ASKED = query("How much is 5 + 7?")
JUDGING = Judging(WeightedVote())
DOWN = Refusal("q", UNAVAILABLE, "gone", status=503)
Words = Mapping[str, str | Refusal]


def recruited(shares: Mapping[str, float], accuracies: Mapping[str, float] | None = None) -> Recruitment:
    return Recruitment("q", tuple(Assignment("q", expert, 0) for expert in shares), shares, accuracies or {})


def said(assignment: Assignment, words: str | Refusal) -> Reply:
    if isinstance(words, Refusal):
        return words
    return Candidate("q", assignment.expert, assignment.slot, words, "stop", 10, 5, "resident")


class Driven:
    """Drives one question: each `Recruit` is given the next shares, each `Ask` what the experts say."""

    def __init__(
        self,
        policy: Policy,
        rounds: Sequence[Mapping[str, float] | Refusal],
        words: Words,
        judging: Judging = JUDGING,
        accuracy: float | None = None,
    ) -> None:
        self.asked: list[list[str]] = []
        self.final: list[bool] = []
        self.without: list[tuple[str, ...]] = []
        self.weighed = 0
        routes = iter(rounds)
        steps = answering(ASKED, policy, judging)
        need = advance(steps)
        while not isinstance(need, Done):
            if isinstance(need, Recruit):
                self.without.append(need.policy.without)
                shares = next(routes)
                told = {} if accuracy is None or isinstance(shares, Refusal) else dict.fromkeys(shares, accuracy)
                found = shares if isinstance(shares, Refusal) else recruited(shares, told)
                routed = found if isinstance(found, Refusal) else Routed(need.policy.way(found), found)
                need = advance(steps, routed)
            elif isinstance(need, Ask):
                self.asked.append([assignment.expert for assignment in need.recruitment.assignments])
                self.final.append(need.final)
                need = advance(steps, [said(a, words[a.expert]) for a in need.recruitment.assignments])
            else:
                assert isinstance(need, Weigh)
                self.weighed += 1
                need = advance(steps, Weighed(tuple(judging.weigh(need.query, need.candidates, need.recruitment))))
        self.result = need.result

    @property
    def trace(self) -> Trace:
        assert isinstance(self.result, Trace)
        return self.result


def test_a_named_expert_is_asked_without_recruiting_and_its_words_are_the_answer() -> None:
    driven = Driven(Policy(expert="adder"), [], {"adder": "12"})
    assert (driven.asked, driven.final, driven.weighed, driven.without) == ([["adder"]], [True], 0, [])
    assert (driven.trace.way, driven.trace.answer.text, driven.trace.answer.expert) == ("named", "12", "adder")


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        (Policy(2), ["adder"]),
        (Policy(2, trust=0.7), ["adder", "speaker"]),
        (Policy(2, aggregate="always"), ["adder", "speaker"]),
        (Policy(2, trust=1.0, aggregate="never"), ["adder"]),
    ],
)
def test_whoever_is_trusted_enough_stands_alone_unless_the_policy_says_otherwise(
    policy: Policy, asked: list[str]
) -> None:
    driven = Driven(policy, [{"adder": 0.6, "speaker": 0.4}], {"adder": "12", "speaker": "13"})
    assert driven.asked == [asked]
    assert driven.trace.way == ("single" if len(asked) == 1 else "aggregated")
    assert driven.trace.recruited == ("adder", "speaker")
    assert driven.weighed == len(asked) - 1


def test_an_expert_that_fails_beside_others_has_no_say() -> None:
    driven = Driven(Policy(2, trust=1.0), [{"adder": 0.6, "speaker": 0.4}], {"adder": DOWN, "speaker": "13"})
    assert (driven.trace.answer.text, driven.trace.candidates[0].finish_reason) == ("13", "error")
    assert [verdict.weight for verdict in driven.trace.verdicts] == [0.0, 0.4]


def test_where_all_that_were_asked_cannot_be_had_others_are_recruited_without_them() -> None:
    driven = Driven(Policy(1), [{"adder": 1.0}, {"speaker": 1.0}], {"adder": DOWN, "speaker": "13"})
    assert driven.without == [(), ("adder",)]
    assert (driven.trace.answer.text, driven.trace.failed) == ("13", {"adder": DOWN.message})


def test_after_two_others_it_is_given_up_and_the_last_failure_is_told() -> None:
    words = {name: replace(DOWN, message=name) for name in "abc"}
    driven = Driven(Policy(1), [{name: 1.0} for name in "abc"], words)
    assert isinstance(driven.result, Refusal)
    assert (driven.result.message, driven.without[-1]) == ("c", ("a", "b"))


def test_where_nobody_is_left_the_first_failure_is_told() -> None:
    nobody = Refusal("q", UNAVAILABLE, "nobody is left", status=503)
    told = replace(DOWN, failed={"adder": DOWN.message})
    assert Driven(Policy(1), [{"adder": 1.0}, nobody], {"adder": DOWN}).result == told
    assert Driven(Policy(1), [nobody], {}).result == nobody


@pytest.mark.parametrize("fault", [Refusal("q", TOO_LONG, "too long"), Refusal("q", "expert_lost", "died", status=503)])
def test_what_another_expert_could_not_mend_is_told_at_once(fault: Refusal) -> None:
    told = replace(fault, failed={} if fault.by_query else {"adder": fault.message})
    assert Driven(Policy(1), [{"adder": 1.0}], {"adder": fault}).result == told


def test_the_querys_own_fault_counts_even_if_one_expert_could_answer() -> None:
    fault = Refusal("q", TOO_LONG, "too long")
    driven = Driven(Policy(2, trust=1.0), [{"adder": 0.6, "speaker": 0.4}], {"adder": "12", "speaker": fault})
    assert driven.result == fault


def test_an_expert_alone_may_say_nothing_but_several_must_say_something() -> None:
    assert Driven(Policy(1), [{"adder": 1.0}], {"adder": ""}).trace.answer.text == ""
    both = Driven(Policy(2, trust=1.0), [{"adder": 0.5, "speaker": 0.5}], {"adder": "", "speaker": ""}).result
    assert isinstance(both, Refusal)
    assert (both.code, both.status) == ("no_answer", 503)
    assert both.failed == {"adder": "empty", "speaker": "empty"}


def test_why_an_expert_failed_stands_beside_who_said_nothing() -> None:
    mute = Driven(Policy(2, trust=1.0), [{"adder": 0.5, "speaker": 0.5}], {"adder": DOWN, "speaker": ""}).result
    assert mute.failed == {"adder": DOWN.message, "speaker": "empty"}


def test_an_aggregator_that_cannot_be_had_costs_no_answer() -> None:
    judging = Judging(WeightedVote(), Synthesis(lambda asked: "writer"))
    words: Words = {"adder": "12", "speaker": "13", "writer": DOWN}
    driven = Driven(Policy(2, trust=1.0), [{"adder": 0.6, "speaker": 0.4}], words, judging)
    assert driven.asked == [["adder", "speaker"], ["writer"]]
    assert (driven.trace.answer.origin, driven.trace.answer.text) == ("fallback", "12")
    assert driven.trace.answer.why.endswith("the aggregator could not run: gone")


FIVE = dict(zip("abcde", (0.24, 0.22, 0.2, 0.18, 0.16), strict=True))


@pytest.mark.parametrize(
    ("quality", "words", "asked"),
    [
        (0.5, ["12"] * 5, ["ab"]),
        (0.9, ["12"] * 5, ["ab"]),
        (0.9, ["12", "13", "12", "12", "12"], ["ab", "cd"]),
        (0.9, ["12", "13", "14", "15", "12"], ["ab", "cd", "e"]),
        (1.0, ["12"] * 5, ["abc"]),
        (1.0, ["12", "13", "12", "12", "12"], ["abc", "d"]),
        (None, ["12"] * 5, ["abcde"]),
    ],
)
def test_experts_are_asked_in_waves_until_the_vote_is_believed(
    quality: float | None, words: list[str], asked: list[str]
) -> None:
    said = dict(zip(FIVE, words, strict=True))
    driven = Driven(Policy(5, quality=quality), [FIVE], said, accuracy=0.6)
    assert ["".join(wave) for wave in driven.asked] == asked
    assert (driven.trace.answer.text, driven.trace.way, driven.weighed) == ("12", "aggregated", 1)
    assert driven.trace.recruited == tuple(FIVE)
    assert len(driven.trace.candidates) == len(driven.trace.verdicts) == sum(map(len, driven.asked))


def test_without_known_accuracies_the_dial_asks_all() -> None:
    driven = Driven(Policy(5, quality=0.1), [FIVE], dict.fromkeys(FIVE, "12"))
    assert [len(wave) for wave in driven.asked] == [5]
    assert driven.trace.posterior is None


def test_a_wave_that_cannot_be_had_is_followed_by_the_next() -> None:
    words: Words = {"a": DOWN, **dict.fromkeys("bcde", "12")}
    driven = Driven(Policy(5, quality=0.5), [FIVE], words, accuracy=0.9)
    assert driven.asked == [["a"], ["b"]]
    assert driven.trace.answer.expert == "b"


def test_a_question_at_fault_is_not_asked_of_the_next_wave() -> None:
    words: Words = {"a": Refusal("q", TOO_LONG, "too long"), **dict.fromkeys("bcde", "12")}
    driven = Driven(Policy(5, quality=0.5), [FIVE], words, accuracy=0.9)
    assert (driven.asked, driven.result) == ([["a"]], words["a"])


@given(st.lists(st.sampled_from(["12", "13", "14", ""]), min_size=5, max_size=5), st.floats(0.15, 0.95))
def test_the_highest_dial_gives_the_answer_that_all_together_give(words: list[str], accuracy: float) -> None:
    said = dict(zip(FIVE, words, strict=True))
    whole = Driven(Policy(5), [FIVE], said, accuracy=accuracy).result
    driven = Driven(Policy(5, quality=1.0), [FIVE], said, accuracy=accuracy).result
    if isinstance(whole, Trace) and isinstance(driven, Trace):
        assert driven.answer.votes[0].answer == whole.answer.votes[0].answer
    else:
        assert whole == driven


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.one_of(st.sampled_from(["12", "13", ""]), st.just(DOWN)), min_size=1),
    st.floats(0, 1),
    st.sampled_from(["auto", "always", "never"]),
)
def test_whatever_experts_do_it_ends_with_an_answer_of_somebody_asked_or_a_reason(
    words: dict[str, str | Refusal], trust: float, aggregate: str
) -> None:
    shares = {expert: 1 / len(words) for expert in words}
    nobody = Refusal("q", UNAVAILABLE, "nobody", status=503)
    policy = Policy(len(words), trust=trust, aggregate=aggregate)  # type: ignore[arg-type]
    driven = Driven(policy, [shares, nobody, nobody], words)
    if isinstance(driven.result, Trace):
        assert driven.result.answer.expert in driven.asked[0]
        assert len(driven.result.candidates) == len(driven.result.verdicts) == len(driven.asked[0])
    else:
        assert all(not isinstance(words[expert], str) or not words[expert] for expert in driven.asked[0])


def test_with_a_verifier_the_dial_asks_on_until_it_believes_the_answer() -> None:
    trees = stump("best giver: hedges", 0.5, 3.0, -1.0)
    judging = Judging(WeightedVote(), verifying=Verifying(trees))
    policy = Policy(5, aggregate="always", quality=0.9)
    sure = Driven(policy, [FIVE], dict.fromkeys(FIVE, "It is clear. The answer is 12."), judging, accuracy=0.2)
    assert (len(sure.asked), sure.trace.posterior) == (1, pytest.approx(1 / (1 + math.exp(-3.0)), abs=1e-6))
    unsure = Driven(policy, [FIVE], dict.fromkeys(FIVE, "It might be 12. The answer is 12."), judging, accuracy=0.2)
    assert [expert for wave in unsure.asked for expert in wave] == list(FIVE)
    assert len(unsure.asked) <= WAVES
