from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.engines.readers import Parted, Reader
from symmoe.engines.streams import Stripped
from symmoe.errors import EngineError
from symmoe.types import Delta, Generation, Message, Query, Sampling
from tests.engine.conftest import Ask

QUESTION = "Name a colour of the sky."


def token_ids(assembly: Assembly, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(assembly.engine.model)(text, add_special_tokens=False).input_ids
    return ids


@pytest.mark.engine
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


@pytest.mark.engine
def test_a_bias_makes_and_forbids_tokens(assembly: Assembly, ask: Ask) -> None:
    (green,) = token_ids(assembly, " green")
    assert ask(QUESTION, logit_bias=((green, 100.0),), max_tokens=3).text.split() == ["green"] * 3
    first = ask(QUESTION, top_logprobs=0).logprobs[0].token
    (forbidden,) = token_ids(assembly, first)
    assert ask(QUESTION, logit_bias=((forbidden, -100.0),), top_logprobs=0).logprobs[0].token != first


@pytest.mark.engine
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


@pytest.mark.engine
def test_what_repeats_costs(assembly: Assembly, ask: Ask) -> None:
    (green,) = token_ids(assembly, " green")
    held = {"logit_bias": ((green, 20.0),), "max_tokens": 8}
    plain = ask(QUESTION, **held).text.count("green")
    for name, value in (("repetition_penalty", 50.0), ("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
        assert ask(QUESTION, **held, **{name: value}).text.count("green") <= plain
    assert ask(QUESTION, **held, repetition_penalty=50.0).text.count("green") < plain


@pytest.mark.engine
@pytest.mark.slow
def test_drawing_from_one_token_is_greedy(ask: Ask) -> None:
    count = "Count from one to ten in words."  # no two tokens are equally likely
    greedy = ask(count).text
    assert ask(count, temperature=1.5, top_k=1, seed=3).text == greedy
    assert ask(count, temperature=1.5, min_p=1.0, seed=3).text == greedy


@pytest.mark.engine
def test_patterns_and_grammars_hold(ask: Ask) -> None:
    assert ask(QUESTION, schema="(red|pink) [0-9]{3}", form="regex").text.split()[0] in ("red", "pink")
    assert ask(QUESTION, schema='root ::= "no \\"" | "never"', form="ebnf").text in ('no "', "never")


@pytest.mark.engine
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


@pytest.mark.engine
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


@given(st.lists(st.text(alphabet=" \n\tab", max_size=5), max_size=8))
def test_what_is_passed_on_adds_up_to_the_stripped_text_however_it_is_cut(pieces: list[str]) -> None:
    stripped = Stripped()
    given = "".join(stripped.feed(piece) for piece in pieces)
    assert given == stripped.whole == "".join(pieces).strip()


def query(text: str, tokens: int = 12, **sampling: object) -> Query:
    return Query("q", (Message("user", text),), Sampling(tokens, **sampling))  # type: ignore[arg-type]


def finished(assembly: Assembly) -> list[Delta]:
    deltas: list[Delta] = []
    while stepped := assembly.engine.step():  # type: ignore[attr-defined]
        deltas += stepped
    return deltas


@pytest.mark.engine
def test_a_stream_adds_up_to_what_the_same_call_gives_whole_and_others_join_in_between(assembly: Assembly) -> None:
    engine = assembly.engine
    assembly.loader.ready("roman")
    assert engine.add("first", query("Write 14 as a Roman numeral."), True) is None  # type: ignore[attr-defined]
    deltas = engine.step()  # type: ignore[attr-defined]
    assert engine.add("second", query("Write 14 as a Roman numeral."), False) is None  # type: ignore[attr-defined]
    deltas += finished(assembly)
    ends = {delta.id: delta.generation for delta in deltas if delta.generation}
    assert ends["first"] == ends["second"]
    assert "".join(delta.text for delta in deltas if delta.id == "first") == ends["first"].text
    assert ends["first"].completion_tokens > 1


@pytest.mark.engine
def test_an_aborted_call_gives_nothing_more_and_its_place_is_free_for_a_swap(assembly: Assembly) -> None:
    engine = assembly.engine
    assembly.loader.ready("roman")
    engine.add("left", query("Tell me a long story.", tokens=200), True)  # type: ignore[attr-defined]
    engine.step()  # type: ignore[attr-defined]
    engine.abort(["left", "nobody"])  # type: ignore[attr-defined]
    assert finished(assembly) == []
    assert assembly.loader.ready("spanish").expert == "spanish"


@pytest.mark.engine
def test_what_cannot_be_generated_for_is_refused_and_nothing_is_left_behind(assembly: Assembly) -> None:
    engine = assembly.engine
    refusal = engine.add("long", query("word " * 5000), True)  # type: ignore[attr-defined]
    assert refusal.code == "context_length_exceeded"
    assert finished(assembly) == []


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
PLAIN, ABLE = Sampling(16), Sampling(16, tools=json.dumps([TOOL]))
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tokenizer of SmolLM2 with the marks of a model that thinks."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Assembly(read_pool("tiny")).weights("generalist").model)
    tokenizer.add_tokens(["<think>", "</think>"])
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.engine
@pytest.mark.parametrize("name", ["deepseek_r1", "qwen3", "granite"])
def test_thoughts_are_told_from_words_whole_and_as_they_come(model: str, name: str) -> None:
    marks = ("Here is my thought process:", "Here is my response:") if name == "granite" else ("<think>", "</think>")
    text = f"{marks[0]}\nTwo and two.\n{marks[1]}\n\nIt is 4."
    reader = Reader.of(model, name, None)
    read = reader.read(Generation(text, "stop", 1, 9), PLAIN)
    assert (read.reasoning, read.text) == ("Two and two.", "It is 4.")
    assert 3 <= read.reasoning_tokens <= 6
    parted, thoughts, words = Parted(reader, PLAIN), "", ""
    for start, end in pairwise([0, len(marks[0]), len(marks[0]) + 7, text.index(marks[1]), len(text) - 4, len(text)]):
        thought, said = parted.feed(text[start:end])
        thoughts, words = thoughts + thought, words + said
    _, thought, said = parted.end(Generation(text, "stop", 1, 9))
    assert (thoughts + thought, words + said) == (read.reasoning, read.text)


@pytest.mark.engine
def test_calls_are_those_that_the_model_s_parser_finds(model: str) -> None:
    reader = Reader.of(model, "deepseek_r1", "hermes")
    read = reader.read(Generation(f"<think>Add.</think>I add. {CALL}", "stop", 1, 9), ABLE)
    assert (read.reasoning, read.text) == ("Add.", "I add.")
    assert [(call.name, json.loads(call.arguments)) for call in read.calls] == [("add", {"a": 1})]
    assert reader.read(Generation(f"</think>{CALL}", "stop", 1, 9), PLAIN).calls == ()
    parted = Parted(reader, ABLE)
    assert parted.feed(f"<think>Add.</think>I add. {CALL}") == ("Add.", "")


@pytest.mark.engine
def test_what_is_held_to_a_schema_thinks_nothing(model: str) -> None:
    read = Reader.of(model, "deepseek_r1", None).read(Generation("{}", "stop", 1, 1), Sampling(16, schema="{}"))
    assert (read.reasoning, read.text) == ("", "{}")


@pytest.mark.engine
def test_a_parser_that_is_not_there_or_does_not_suit_is_named(model: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no parser 'nothing'"):
        Reader.of(model, "nothing", None)
    with pytest.raises(EngineError, match="no parser 'nothing'"):
        Reader.of(model, None, "nothing")
    without = Assembly(read_pool("tiny")).weights("generalist").model
    with pytest.raises(EngineError, match="does not suit"):
        Reader.of(without, "deepseek_r1", None)
