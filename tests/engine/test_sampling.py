"""Each way of saying how to generate, on real weights."""

from __future__ import annotations

import math

import pytest

from symmoe.build import Assembly
from symmoe.types import Message, Query, Sampling
from tests.engine.conftest import Ask

pytestmark = pytest.mark.engine
QUESTION = "Name a colour of the sky."


def token_ids(assembly: Assembly, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(assembly.engine.model)(text, add_special_tokens=False).input_ids
    return ids


@pytest.mark.slow
def test_log_probabilities_belong_to_the_tokens_of_the_text(ask: Ask) -> None:
    said = ask(QUESTION, top_logprobs=3)
    assert "".join(each.token for each in said.logprobs).strip() == said.text
    for each in said.logprobs:
        assert len(each.top) == 3
        assert (each.token, each.logprob) in each.top
        assert each.logprob == max(logprob for _, logprob in each.top)  # greedy; others may be as likely
        assert sum(math.exp(logprob) for _, logprob in each.top) <= 1.001
    assert ask(QUESTION, top_logprobs=0).logprobs[0].top == ()
    assert ask(QUESTION).logprobs == ()


def test_a_bias_makes_and_forbids_tokens(assembly: Assembly, ask: Ask) -> None:
    (green,) = token_ids(assembly, " green")
    assert ask(QUESTION, logit_bias=((green, 100.0),), max_tokens=3).text.split() == ["green"] * 3
    first = ask(QUESTION, top_logprobs=0).logprobs[0].token
    (forbidden,) = token_ids(assembly, first)
    assert ask(QUESTION, logit_bias=((forbidden, -100.0),), top_logprobs=0).logprobs[0].token != first


@pytest.mark.slow
def test_answers_end_where_they_are_told_to(assembly: Assembly, ask: Ask) -> None:
    plain = ask("Count from one to ten in words.", top_logprobs=0)
    third = plain.logprobs[2].token
    (token,) = token_ids(assembly, third)
    by_token = ask("Count from one to ten in words.", stop_token_ids=(token,), top_logprobs=0)
    assert [each.token for each in by_token.logprobs] == [each.token for each in plain.logprobs[:2]]
    assert (by_token.finish_reason, by_token.stop) == ("stop", None)
    by_text = ask("Count from one to ten in words.", stop=(third,))
    assert (by_text.finish_reason, by_text.stop) == ("stop", third)
    assert ask(QUESTION, ignore_eos=True, max_tokens=120).completion_tokens == 120
    assert ask(QUESTION, min_tokens=100, max_tokens=120).completion_tokens >= 100


def test_what_repeats_costs(assembly: Assembly, ask: Ask) -> None:
    (green,) = token_ids(assembly, " green")
    held = {"logit_bias": ((green, 20.0),), "max_tokens": 8}
    plain = ask(QUESTION, **held).text.count("green")
    for name, value in (("repetition_penalty", 50.0), ("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
        assert ask(QUESTION, **held, **{name: value}).text.count("green") <= plain
    assert ask(QUESTION, **held, repetition_penalty=50.0).text.count("green") < plain


@pytest.mark.slow
def test_drawing_from_one_token_is_greedy(ask: Ask) -> None:
    count = "Count from one to ten in words."  # no two tokens are equally likely
    greedy = ask(count).text
    assert ask(count, temperature=1.5, top_k=1, seed=3).text == greedy
    assert ask(count, temperature=1.5, min_p=1.0, seed=3).text == greedy


def test_patterns_and_grammars_hold(ask: Ask) -> None:
    assert ask(QUESTION, schema="(red|pink) [0-9]{3}", form="regex").text.split()[0] in ("red", "pink")
    assert ask(QUESTION, schema='root ::= "no \\"" | "never"', form="ebnf").text in ('no "', "never")


def test_what_no_engine_can_follow_is_refused_before_it_sees_it(assembly: Assembly) -> None:
    def refused(**sampling: object) -> str | None:
        query = Query("q", (Message("user", "x"),), Sampling(8, **sampling))  # type: ignore[arg-type]
        (refusal,) = assembly.engine.refuse([query])
        return refusal and refusal.code

    assert refused(schema="(", form="regex") == "invalid_schema"
    assert refused(schema="root ::= nothing", form="ebnf") == "invalid_schema"
    assert refused(schema="a\0b", form="regex") == "invalid_schema"
    assert refused(stop_token_ids=(1 << 20,)) == "invalid_value"
    assert refused(logit_bias=((49151, 1.0),)) is None
    assert refused(logit_bias=((49152, 1.0),)) == "invalid_value"
    assert refused(schema="[ab]+", form="regex") is None


def test_streamed_log_probabilities_add_up(assembly: Assembly) -> None:
    engine = assembly.engine
    query = Query("q", (Message("user", "Write 中文 and 日本 once."),), Sampling(24, top_logprobs=1))
    assert engine.add("s", query, stream=True) is None  # type: ignore[attr-defined]
    deltas = []
    while not deltas or deltas[-1].generation is None:
        deltas += engine.step()  # type: ignore[attr-defined]
    whole = deltas[-1].generation
    assert [each for delta in deltas for each in delta.logprobs] == list(whole.logprobs)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert len(whole.logprobs) <= whole.completion_tokens
