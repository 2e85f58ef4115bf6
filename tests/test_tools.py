"""Calls are read out of whatever form a model writes them in, and out of nothing else."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from symmoe.aggregation.vote import WeightedVote
from symmoe.tools import (
    CallPart,
    Reading,
    before_calls,
    call_id,
    caller_in,
    calls_in,
    forced_schema,
    normalised,
    worded,
)
from symmoe.types import Candidate, Message, Query, Sampling, ToolCall, Verdict

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
TOOLS = json.dumps([ADD])
CALL = '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"```json\n{CALL}\n```",
        f"```\n{CALL}\n```",
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_call>{CALL}",
        f"I shall add them.\n{CALL} Then we see.",
        f"[{CALL}]",
        '{"name": "add", "parameters": {"a": 1}}',
        '{"type": "function", "name": "add", "arguments": "{\\"a\\": 1}"}',
        f"{{1, 2}} and {CALL}",
        CALL[:-1],
    ],
)
def test_a_call_is_read_however_it_is_marked(text: str) -> None:
    assert [(call.name, json.loads(call.arguments)) for call in calls_in(text, TOOLS)] == [("add", {"a": 1})]


@pytest.mark.parametrize(
    "text",
    [
        "add(1, 2)",
        '{"name": "subtract", "arguments": {}}',
        '{"name": "add", "arguments": [1]}',
        '{"name": "add", "arguments": "nothing"}',
        f'{{"said": {CALL}}}',
        CALL[:-2],
        "[" * 5000,
        "",
    ],
)
def test_what_is_no_call_of_a_tool_is_text(text: str) -> None:
    assert calls_in(text, TOOLS) == ()
    assert calls_in(CALL, "") == ()


def test_several_calls_are_several() -> None:
    text = f"Both:\n```json\n{CALL}\n```\n```json\n{CALL}\n```"
    assert len(calls_in(text, TOOLS)) == 2
    assert before_calls(text) == "Both:"


PARTS = [
    CALL,
    "```json\n",
    "\n```",
    "<tool_call>",
    " ",
    "words",
    "{",
    "[",
    ",",
    '"',
    "}",
    CALL[:-1],
    CALL[:20],
    '{"name": "b"}',
]


@example('<tool_call>{"name": "add", "arguments": {"a": 1}}', [6])
@given(st.lists(st.sampled_from(PARTS), max_size=6).map("".join), st.lists(st.integers(0, 200), max_size=8))
def test_what_is_passed_on_as_it_comes_is_what_is_read_in_the_whole(text: str, cuts: list[int]) -> None:
    reading, words, calls = Reading(TOOLS), "", dict[int, str]()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in pairwise(places):
        for part in reading.feed(text[start:end]):
            if isinstance(part, CallPart):
                calls[part.place] = calls.get(part.place, "") + part.arguments
            else:
                words += part
    found = calls_in(text, TOOLS)
    if not calls and not found:
        assert words + reading.rest == text
    if found:
        assert words == before_calls(text)
    for place, arguments in calls.items():  # the last may have been cut short
        assert place >= len(found) or found[place].arguments == arguments
    assert len(calls) <= len(found) + 1


def test_arguments_are_passed_on_as_they_are_written_and_no_call_beyond_the_most() -> None:
    reading = Reading(TOOLS, most=1)
    parts = [part for letter in f"Both:\n```json\n{CALL}\n{CALL}" for part in reading.feed(letter)]
    assert "".join(part for part in parts if isinstance(part, str)) == "Both:"
    calls = [part for part in parts if isinstance(part, CallPart)]
    assert [part.arguments for part in calls] == ["", *'{"a": 1}']
    assert {part.place for part in calls} == {0}


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.booleans(), max_size=4))
def test_the_order_of_arguments_and_calls_makes_no_other_call(arguments: dict[str, object]) -> None:
    turned = dict(reversed(list(arguments.items())))
    first, second = ToolCall("add", json.dumps(arguments)), ToolCall("add", json.dumps(turned))
    other = ToolCall("other", "{}")
    assert normalised([first, other]) == normalised([other, second])


def test_numbers_are_compared_by_value_and_truth_is_no_number() -> None:
    one, same, true = (ToolCall("add", json.dumps({"a": value})) for value in (1, 1.0, True))
    assert normalised([one]) == normalised([same]) != normalised([true])


def test_calls_are_voted_on_by_name_and_arguments() -> None:
    sampling = Sampling(16, tools=TOOLS)
    texts = ['{"name": "add", "arguments": {"a": 1, "b": 2}}', '{"name":"add","arguments":{"b":2,"a":1}}', CALL]
    candidates = [
        Candidate("q", f"e{n}", 0, text, "stop", 1, 1, "resident", calls=calls_in(text, TOOLS))
        for n, text in enumerate(texts)
    ]
    verdicts = [Verdict("e0", 0, 1.0), Verdict("e1", 0, 1.0), Verdict("e2", 0, 1.5)]
    answer = WeightedVote().aggregate(Query("q", (Message("user", "add"),), sampling), candidates, verdicts)
    assert [vote.experts for vote in answer.votes] == [("e0", "e1"), ("e2",)]
    assert answer.text in texts[:2]


def test_a_forced_call_is_of_the_named_tool_or_of_any() -> None:
    other = {"type": "function", "function": {"name": "b", "parameters": {"$defs": {"X": {}}, "type": "object"}}}
    assert forced_schema([ADD, other], "add")["properties"]["name"] == {"const": "add"}
    either = forced_schema([ADD, other], None)
    assert [each["properties"]["name"]["const"] for each in either["anyOf"]] == ["add", "b"]
    assert either["$defs"] == {"X": {}}


def test_a_template_that_knows_no_tools_is_told_in_words() -> None:
    called = Message("assistant", "", (ToolCall("add", '{"a": 1}', "c"),))
    turns = [Message("system", "Be brief."), Message("user", "x"), called, Message("tool", "3", call_id="c")]
    system, _, assistant, tool = worded(turns, TOOLS)
    assert system.content.startswith("Be brief.\n\nYou can call")
    assert '"name": "add"' in system.content
    assert assistant.content == CALL
    assert (tool.role, tool.content) == ("user", "The function gave: 3")
    assert worded(turns[:2], "") == turns[:2]


@given(st.sets(st.text(min_size=1, max_size=20), min_size=1, max_size=5), st.data())
def test_who_called_is_known_by_the_call_s_id(experts: set[str], data: st.DataObject) -> None:
    who, others = data.draw(st.sampled_from(sorted(experts))), {"another"}
    made = Message("assistant", "", (ToolCall("add", "{}", call_id("a" * 24, 0, 3, who)),))
    gave = Message("tool", "3", call_id=made.calls[0].id)
    asked, remark = Message("user", "What is 1 + 2?"), Message("user", "Well?")
    assert caller_in([asked, made, gave], experts) == caller_in([asked, made, gave, remark], experts) == who
    assert caller_in([asked, made, gave], others - {who}) is None
    for over in ([asked], [asked, made], [asked, made, remark], [asked, made, gave, Message("assistant", "3"), remark]):
        assert caller_in(over, experts) is None
