from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.aggregation.consensus import ConsensusRule, Thresholds
from symmoe.aggregation.prompting import Prompt, Window, prompt_for, shown
from symmoe.aggregation.synthesis import (
    SLOT,
    Decision,
    Settled,
    Synthesis,
    best_aggregator,
    by_kind,
    decide,
    prompts,
    settle,
)
from symmoe.aggregation.vote import Case, WeightedVote, no_answer
from symmoe.answering import TOO_LONG, Ask, Done, advance, synthesising
from symmoe.types import (
    AnswerKind,
    Candidate,
    ExpertProfile,
    Message,
    Profiles,
    Query,
    Refusal,
    Sampling,
    Tally,
    Verdict,
)
from tests.fakes import candidate, query


def profiles(**kinds: dict[str, Tally]) -> Profiles:
    return Profiles({name: ExpertProfile(name, {}, Tally(1, 1), aggregation=own) for name, own in kinds.items()})  # type: ignore[arg-type]


def test_the_best_aggregator_is_told_by_kind_and_few_tasks_count_for_little() -> None:
    known = profiles(a={"text": Tally(8, 2)}, b={"text": Tally(1, 0), "number": Tally(9, 1)}, c={})
    assert best_aggregator(known, "text") == "a"
    assert best_aggregator(known, "number") == "b"
    assert best_aggregator(known, "math") is None
    assert best_aggregator(known) == "b"
    assert best_aggregator(profiles(a={}, b={})) is None


def test_each_kind_of_answer_has_its_aggregator_and_others_the_best_over_all() -> None:
    choose = by_kind(profiles(a={"text": Tally(8, 2)}, b={"text": Tally(1, 0), "number": Tally(9, 1)}), "c")
    asked = query("anything")
    assert [choose(replace(asked, kind=kind)) for kind in ("text", "number", "math", "auto")] == ["a", "b", "b", "b"]


def test_where_nobody_s_aggregation_was_measured_it_is_the_expert_named_for_that() -> None:
    assert by_kind(profiles(a={}, b={}), "b")(query("anything")) == "b"


Said = tuple[str, str, float]
SPLIT: tuple[Said, ...] = (("adder", "12", 0.5), ("speaker", "13", 0.3), ("sorter", "14", 0.2))
ALIKE: tuple[Said, ...] = (("adder", "12", 0.5), ("speaker", "12", 0.3), ("sorter", "12", 0.2))


def case(rows: Sequence[Said] = SPLIT, kind: AnswerKind = "number", text: str = "How much is 5 + 7?") -> Case:
    asked = Query("q", (Message("system", "Be brief."), Message("user", text)), Sampling(64, 0.7, 0.9, 3), kind)
    candidates = tuple(candidate(expert, said, slot) for slot, (expert, said, _) in enumerate(rows))
    verdicts = tuple(Verdict(expert, slot, weight) for slot, (expert, _, weight) in enumerate(rows))
    return Case(asked, candidates, verdicts, WeightedVote().aggregate(asked, candidates, verdicts))


def decided(of: Case, **how: object) -> Decision:
    return decide(Synthesis(lambda query: "writer", **how), of)  # type: ignore[arg-type]


def prompted(of: Case) -> Prompt:
    return next(prompts(Synthesis(lambda query: "writer"), of, 0))


def settled(of: Case, text: str, finish_reason: str = "stop", **how: object) -> Settled:
    said = Candidate("q", "writer", SLOT, text, finish_reason, 100, 7, "resident")
    return settle(decided(of, when="always", **how), prompted(of), said)


def test_where_candidates_agree_the_vote_stands_and_says_by_which_figures() -> None:
    decision = decided(case(ALIKE))
    assert decision.aggregator == ""
    done = settle(decision)
    assert (done.answer.origin, done.answer.text) == ("vote", "12")
    assert done.answer.why.startswith("share 1 of 1")


def test_where_they_do_not_an_aggregator_is_asked_greedily() -> None:
    decision = decided(case())
    asked = prompted(case()).query
    assert asked.sampling == Sampling(64, 0.0, 1.0, None)
    assert asked.messages[0] == Message("system", "Be brief.")
    assert "How much is 5 + 7?" in asked.messages[-1].content
    assert [a.expert for a in decision.recruitment.assignments] == ["writer"]
    assert decision.why == "share 0.333 is below 1"


def test_one_candidate_needs_no_aggregator_unless_it_is_always_asked() -> None:
    assert decided(case(SPLIT[:1])).aggregator == ""
    assert decided(case(SPLIT[:1]), when="always").aggregator == "writer"


def test_the_rule_decides() -> None:
    assert decided(case(), rule=ConsensusRule(Thresholds(0.3, 0.0, 1.0, 2))).aggregator == ""


def test_each_query_s_aggregator_is_chosen() -> None:
    synthesis = Synthesis(lambda query: query.kind)
    cases = [case(kind="number"), case(kind="math")]
    assert [decide(synthesis, each).aggregator for each in cases] == ["number", "math"]


def test_a_synthesis_is_the_answer_and_its_tokens_are_counted() -> None:
    answer = settled(case(), "It is 13.").answer
    assert (answer.text, answer.expert, answer.origin, answer.novel) == ("It is 13.", "writer", "synthesis", False)
    assert (answer.prompt_tokens, answer.completion_tokens) == (130, 22)
    assert [vote.answer for vote in answer.votes] == ["12", "13", "14"]


def test_a_synthesis_that_no_candidate_gave_is_kept_and_marked() -> None:
    answer = settled(case(), "It is 15.").answer
    assert (answer.text, answer.origin, answer.novel) == ("It is 15.", "synthesis", True)
    assert "no candidate gave this answer" in answer.why


@pytest.mark.parametrize(
    ("text", "finish_reason", "why"),
    [
        ("", "stop", "wrote nothing"),
        ("\u200b \n", "stop", "wrote nothing"),
        ("12", "error", "failed"),
        ("12 and then", "length", "cut off"),
        ("I cannot say.", "stop", "no answer can be read"),
    ],
)
def test_a_synthesis_that_is_no_answer_falls_back_to_the_best_by_vote(text: str, finish_reason: str, why: str) -> None:
    done = settled(case(), text, finish_reason)
    assert (done.answer.text, done.answer.expert, done.answer.origin) == ("12", "adder", "fallback")
    assert why in done.answer.why
    assert done.answer.completion_tokens == 22
    assert done.synthesis is not None


def test_a_synthesis_that_repeats_its_prompt_falls_back() -> None:
    assert settled(case(), prompted(case()).query.messages[-1].content).answer.why.endswith("repeated its prompt")


@pytest.mark.parametrize(
    ("rows", "text", "why"),
    [
        ((("a", "A", 0.5), ("b", "B", 0.5)), "The first of the two", "is no choice"),
        ((("a", "12", 0.5), ("b", "13", 0.5)), "a dozen", "is no number"),
    ],
)
def test_a_synthesis_of_another_kind_than_every_candidate_falls_back(
    rows: tuple[Said, ...], text: str, why: str
) -> None:
    asked = "Which? (A) one (B) two" if rows[0][1] == "A" else "How many?"
    done = settled(case(rows, "auto", asked), text)
    assert done.answer.origin == "fallback"
    assert why in done.answer.why


def test_where_no_candidate_could_be_read_a_synthesis_that_cannot_be_read_is_kept() -> None:
    done = settled(case((("a", "who knows", 0.5), ("b", "not I", 0.5))), "Nobody knows.")
    assert (done.answer.text, done.answer.origin, done.answer.novel) == ("Nobody knows.", "synthesis", True)


def test_an_aggregator_that_could_not_run_falls_back_and_says_why() -> None:
    done = settle(decided(case()), prompted(case()), trouble="the aggregator could not run: out of memory")
    assert (done.answer.text, done.answer.origin) == ("12", "fallback")
    assert done.answer.why.endswith("out of memory")


def test_a_prompt_that_is_refused_is_made_shorter_and_if_that_does_not_help_the_vote_stands() -> None:
    long = case((("a", "word " * 2000 + "12", 0.5), ("b", "word " * 2000 + "13", 0.5)))
    synthesis = Synthesis(lambda query: "writer", window=Window(1500))
    steps, lengths = synthesising(long, synthesis), []
    need = advance(steps)
    while isinstance(need, Ask):
        lengths.append(len(need.query.messages[-1].content))
        need = advance(steps, [Refusal("q", TOO_LONG, "too long")])
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 3
    assert isinstance(need, Done)
    assert (need.result.answer.origin, need.result.answer.text) == ("fallback", long.voted.text)
    assert "window" in need.result.answer.why


def test_a_window_with_no_room_makes_no_prompt() -> None:
    assert prompt_for(case(), Window(200), 0) is None


def test_equal_requests_have_equal_prompts_and_codes_change_with_seed_and_candidates() -> None:
    def code(of: Case, seed: int) -> str:
        made = prompt_for(of, Window(), seed)
        assert made is not None
        return made.fences.code

    assert code(case(), 0) == code(case(), 0)
    assert len({code(case(), 0), code(case(), 1), code(case(ALIKE), 0)}) == 3


def test_every_distinct_answer_is_shown_before_any_is_shown_twice() -> None:
    rows = [("a", "12", 0.4), ("b", "so 12", 0.3), ("c", "thus 12", 0.2), ("d", "13", 0.1)]
    assert list(shown(case(rows), 2)) == ["12", "13"]
    assert list(shown(case(rows), 3)) == ["12", "so 12", "13"]


def test_equal_texts_are_shown_once_with_their_weights_added_and_failed_ones_not_at_all() -> None:
    rows = [("a", "12", 0.5), ("b", "12", 0.25), ("c", "", 0.0), ("d", "13", 0.25)]
    assert shown(case(rows), 8) == pytest.approx({"12": 0.75, "13": 0.25})


def test_a_query_of_which_every_candidate_failed_has_no_answer() -> None:
    asked = case().query
    failed = [replace(candidate("a", "12"), finish_reason="error"), candidate("b", " \u200b\n")]
    refusal = no_answer(asked, failed)
    assert refusal is not None
    assert (refusal.query_id, refusal.code) == ("q", "no_answer")
    assert "a (failed), b (empty)" in refusal.message
    assert no_answer(asked, [*failed, candidate("c", "12")]) is None
    assert no_answer(asked, [*failed, candidate("c", "\u3164\u115f")]) is not None  # letters that nobody sees
    assert no_answer(asked, []) is not None


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=40), min_size=1, max_size=5), st.integers(0, 9))
def test_whatever_candidates_hold_the_prompt_can_be_read_back(texts: list[str], seed: int) -> None:
    of = case([(f"e{n}", text, 0.2) for n, text in enumerate(texts)], "auto")
    made = prompt_for(of, Window(20_000), seed)
    if made is None:
        assert not shown(of, 8)
    else:
        assert made.fences.read(made.query.messages[-1].content) == list(shown(of, 8))
        assert made.query.messages[-1].content.encode()
