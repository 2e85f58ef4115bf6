"""Tools through every door, on experts that echo: one writes a call where the prompt says one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from symmoe.deployments.access.keys import Open
from symmoe.deployments.settings import Settings

from symmoe.types import Generation, TokenLogprob, ToolCall
from symmoe.wire.answers import AnswerFacts
from symmoe.wire.responses import ResponseRequest, ResponseWriter
from tests.deployments.api.conftest import Running, running
from tests.deployments.api.test_doors import events
from tests.deployments.api.test_refusals import error_of

pytestmark = pytest.mark.usefixtures("state")
CALL = '{"name": "add", "arguments": {"a": 1}}'
SAYS = f"sums ```json {CALL} ```"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}}
ASKED = {"model": "symmoe/auto", "messages": [{"role": "user", "content": SAYS}]}


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A pool of three, two of which take tools."""
    folder, names = tmp_path_factory.mktemp("pool"), ("adder", "speaker", "sorter")
    with running(folder, Settings(), Open(admin=True), experts=names, able=("adder", "sorter")) as served:
        yield served


@pytest.mark.parametrize("model", ["adder", "symmoe/auto", "symmoe/best"])
def test_a_call_is_a_call_whole_and_streamed(able: Running, model: str) -> None:
    messages: Any = ASKED["messages"]
    whole = able.openai.chat.completions.create(model=model, messages=messages, tools=[TOOL]).choices[0]  # type: ignore[list-item]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content == "adder: sums"
    (call,) = whole.message.tool_calls or ()
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})  # type: ignore[union-attr]
    stream = able.openai.chat.completions.create(model=model, messages=messages, tools=[TOOL], stream=True)  # type: ignore[list-item]
    chunks = [choice for chunk in stream for choice in chunk.choices]
    deltas = [delta for chunk in chunks for delta in chunk.delta.tool_calls or ()]
    assert deltas[0].id
    assert deltas[0].function.name == "add"  # type: ignore[union-attr]
    assert json.loads("".join(delta.function.arguments or "" for delta in deltas)) == {"a": 1}  # type: ignore[union-attr]
    assert "".join(chunk.delta.content or "" for chunk in chunks).strip() == "adder: sums"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]


def test_only_experts_that_can_are_asked(able: Running) -> None:
    body = {"model": "symmoe/best", "messages": [{"role": "user", "content": "spanish"}], "symmoe": {"explain": True}}
    assert "speaker" in able.post(json=body).json()["symmoe"]["asked"]
    assert "speaker" not in able.post(json={**body, "tools": [TOOL]}).json()["symmoe"]["asked"]
    assert "speaker" in able.post(json={**body, "tools": [TOOL], "tool_choice": "none"}).json()["symmoe"]["asked"]
    named = error_of(able.post(json={**body, "model": "speaker", "tools": [TOOL]}))
    assert named["param"] == "tools"


def test_text_that_is_no_call_comes_as_text_all_of_it(able: Running) -> None:
    body = {"model": "adder", "messages": [{"role": "user", "content": "a {1, 2} set ``` x"}], "tools": [TOOL]}
    assert able.post(json=body).json()["choices"][0]["message"]["content"] == "adder: a {1, 2} set ``` x"
    lines = able.post(json={**body, "stream": True}).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "adder: a {1, 2} set ``` x"


@pytest.mark.parametrize("says", [SAYS, "a {1, 2} set ``` x", "no brace at all"])
@pytest.mark.parametrize("model", ["adder", "symmoe/best"])
def test_words_that_are_streamed_beside_tools_have_their_log_probabilities(
    able: Running, model: str, says: str
) -> None:
    asked: Any = {"model": model, "messages": [{"role": "user", "content": says}], "tools": [TOOL], "logprobs": True}
    whole = able.openai.chat.completions.create(**asked).choices[0]
    chunks = [choice for chunk in able.openai.chat.completions.create(**asked, stream=True) for choice in chunk.choices]
    told = [(chunk.delta.content, chunk.logprobs.content or []) for chunk in chunks if chunk.logprobs]
    assert [token for _, tokens in told for token in tokens] == (whole.logprobs and whole.logprobs.content)
    assert "".join(words or "" for words, _ in told) == (whole.message.content or "")
    if model == "adder":
        assert ["".join(t.token for t in tokens).split() for words, tokens in told if words] == [
            words.split() for words, _ in told if words
        ]


def test_a_streamed_response_s_words_before_a_call_end_with_their_log_probabilities(able: Running) -> None:
    tool: Any = {"type": "function", "name": "add", "parameters": SCHEMA}
    stream = able.openai.responses.create(model="adder", input=SAYS, tools=[tool], stream=True, top_logprobs=1)
    (done,) = (event for event in stream if event.type == "response.output_text.done")
    assert "".join(token.token for token in done.logprobs) == done.text == "adder: sums"


def test_a_response_of_calls_alone_has_no_message_whatever_its_log_probabilities() -> None:
    """The tokens of what several experts call alike, or of what is given again, are there all at once."""
    tokens = (TokenLogprob(CALL, -0.1, ()),)
    answer = Generation(CALL, "stop", 3, 9, tokens, calls=(ToolCall("add", '{"a": 1}'),))
    writer = ResponseWriter("0" * 24, ResponseRequest(input="x"))
    parts = [*writer.begin(1), *writer.piece(0, "", tokens), *writer.end(0, answer)]
    found = events(b"".join([*parts, *writer.finish({0: answer}, AnswerFacts(3, 9))]).decode())
    done = [each["item"] for each in found if each["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["function_call"]
    assert done == found[-1]["response"]["output"]


def test_arguments_are_streamed_as_they_are_written(able: Running) -> None:
    call = '{"name": "add", "arguments": {"a": 1, "b": [2, 3]}}'
    messages: Any = [{"role": "user", "content": f"sums {call} {call}"}]
    body: Any = {"model": "adder", "messages": messages, "tools": [TOOL], "stream": True}
    for parallel, most in ((True, 2), (False, 1)):
        stream = able.openai.chat.completions.create(**body, parallel_tool_calls=parallel)
        deltas = [each for chunk in stream for choice in chunk.choices for each in choice.delta.tool_calls or ()]
        written = ["".join(d.function.arguments for d in deltas if d.index == n) for n in range(2)]
        assert written == ['{"a": 1, "b": [2, 3]}'] * most + [""] * (2 - most)
        assert sum(each.index == 0 for each in deltas) > 3
        assert len([each for each in deltas if each.id]) == most


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_forced_call_is_held_to_the_tool_s_schema(able: Running, choice: object) -> None:
    able.engine.asked.clear()
    able.post(json={**ASKED, "tools": [TOOL], "tool_choice": choice})
    held = json.loads(able.engine.asked[0].sampling.schema or "")
    assert held["properties"] == {"name": {"const": "add"}, "arguments": SCHEMA}


def test_a_conversation_with_calls_and_what_tools_gave_reaches_the_expert(able: Running) -> None:
    able.engine.asked.clear()
    function = {"name": "add", "arguments": '{"a": 1}'}
    turns = [
        *ASKED["messages"],
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": "3"},
    ]
    assert able.post(json={**ASKED, "messages": turns, "tools": [TOOL]}).status_code == 200
    _, assistant, tool = able.engine.asked[0].messages
    assert (assistant.calls[0].name, assistant.calls[0].id, assistant.content) == ("add", "c", "")
    assert (tool.role, tool.call_id, tool.content) == ("tool", "c", "3")


def test_messages_call_tools_as_anthropic_has_it(able: Running) -> None:
    tool = {"name": "add", "input_schema": SCHEMA}
    body = {"model": "adder", "max_tokens": 9, "messages": ASKED["messages"], "tools": [tool]}
    said = able.post("/v1/messages", json=body).json()
    assert said["stop_reason"] == "tool_use"
    text, use = said["content"]
    assert (text["text"], use["type"], use["name"], use["input"]) == ("adder: sums", "tool_use", "add", {"a": 1})
    found = events(able.post("/v1/messages", json={**body, "stream": True}).text)
    parts = [e["delta"]["partial_json"] for e in found if e.get("delta", {}).get("type") == "input_json_delta"]
    assert json.loads("".join(parts)) == {"a": 1}
    starts = [(e["index"], e["content_block"]["type"]) for e in found if e["type"] == "content_block_start"]
    assert starts == [(0, "text"), (1, "tool_use")]
    able.engine.asked.clear()
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": "3"}]}
    turns = [
        *ASKED["messages"],
        {"role": "assistant", "content": said["content"]},
        {"role": "user", "content": [result]},
    ]
    assert able.post("/v1/messages", json={**body, "messages": turns}).status_code == 200
    assert [m.role for m in able.engine.asked[0].messages] == ["user", "assistant", "tool"]
    forced = {**body, "tool_choice": {"type": "tool", "name": "add"}}
    assert able.post("/v1/messages", json=forced).status_code == 200
    assert able.engine.asked[-1].sampling.schema is not None


def test_responses_call_tools_and_go_on_with_what_they_gave(able: Running) -> None:
    tool: Any = {"type": "function", "name": "add", "parameters": SCHEMA}
    first = able.openai.responses.create(model="adder", input=SAYS, tools=[tool])
    message, call = first.output
    assert (message.type, call.type, call.name) == ("message", "function_call", "add")  # type: ignore[union-attr]
    able.engine.asked.clear()
    gave: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "3"}]  # type: ignore[union-attr]
    able.openai.responses.create(model="adder", input=gave, tools=[tool], previous_response_id=first.id)
    _, assistant, result = able.engine.asked[0].messages
    assert assistant.calls[0].id == result.call_id
    stream = list(able.openai.responses.create(model="adder", input=SAYS, tools=[tool], stream=True))
    done = [event for event in stream if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [{"a": 1}]


def test_what_an_assistant_said_and_called_together_is_one_turn_of_a_response_s_input(able: Running) -> None:
    """Templates that want turns to alternate take no two of an assistant's."""
    able.engine.asked.clear()
    calls = [{"type": "function_call", "call_id": ident, "name": "add", "arguments": "{}"} for ident in "ab"]
    gave = [{"type": "function_call_output", "call_id": ident, "output": "3"} for ident in "ab"]
    said = {"role": "assistant", "content": "Let me see."}
    body = {"model": "adder", "input": [{"role": "user", "content": SAYS}, said, *calls, *gave]}
    tool = {"type": "function", "name": "add", "parameters": SCHEMA}
    assert able.post("/v1/responses", json={**body, "tools": [tool]}).status_code == 200
    user, assistant, *results = able.engine.asked[0].messages
    assert (user.role, assistant.role, assistant.content) == ("user", "assistant", "Let me see.")
    assert [call.id for call in assistant.calls] == [result.call_id for result in results] == ["a", "b"]


def test_what_tools_gave_goes_to_the_expert_that_called(able: Running) -> None:
    """By the call's id alone; where that expert is not to be had, the question is routed."""

    def went(ident: str, **more: Any) -> str:
        call = {"id": ident, "type": "function", "function": {"name": "add", "arguments": "{}"}}
        turns = [
            {"role": "user", "content": "sorting"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": ident, "content": "3"},
        ]
        turns += [{"role": "user", "content": "sorting"}] if more.pop("remark", False) else []
        response = able.post(json={**ASKED, "messages": turns, "tools": [TOOL], **more})
        return str(response.headers["x-symmoe-experts"])

    def ident_of(**more: Any) -> str:
        body = {**ASKED, "model": "adder", "tools": [TOOL], **more}
        response = able.post(json=body)
        if not more:
            return str(response.json()["choices"][0]["message"]["tool_calls"][0]["id"])
        chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        return next(call["id"] for c in chunks for call in c["choices"][0]["delta"].get("tool_calls", ()))

    assert went("call_of_somebody_else") == "sorter"
    for ident in (ident_of(), ident_of(stream=True)):
        assert len(ident) <= 40
        assert went(ident) == went(ident, remark=True) == went(ident, model="symmoe/best") == "adder"
        assert went(ident, model="sorter") == "sorter"
    able.post("/v1/admin/experts/adder/quarantine", json={"why": "a test"}).raise_for_status()
    try:
        assert went(ident) == "sorter"
    finally:
        able.post("/v1/admin/experts/adder/restore", json={})


@pytest.mark.parametrize("stream", [False, True])
def test_other_doors_calls_are_known_again(able: Running, stream: bool) -> None:
    said = able.openai.responses.create(model="adder", input=SAYS, tools=[{**TOOL["function"], "type": "function"}])  # type: ignore[dict-item,list-item]
    call = said.output[-1]
    gave = {"type": "function_call_output", "call_id": call.call_id, "output": "sorting"}  # type: ignore[union-attr]
    followed = able.post("/v1/responses", json={"input": [gave], "previous_response_id": said.id, "stream": stream})
    assert followed.headers["x-symmoe-experts"] == "adder"
    body = {"model": "adder", "max_tokens": 9, "messages": ASKED["messages"]}
    body |= {"tools": [{"name": "add", "input_schema": SCHEMA}]}
    use = able.post("/v1/messages", json=body).json()["content"][-1]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "3"}
    turns = [
        {"role": "user", "content": "sorting"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, {"type": "text", "text": "sorting"}]},
    ]
    followed = able.post("/v1/messages", json={**body, "model": "symmoe/auto", "messages": turns, "stream": stream})
    assert followed.headers["x-symmoe-experts"] == "adder"
