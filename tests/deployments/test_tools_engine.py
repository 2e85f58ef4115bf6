"""Conversations with tools through `symmoe/auto`, on the starter pool's generalist as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.deployments.serving import client_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def tool(name: str, about: str, **arguments: str) -> dict[str, Any]:
    properties = {each: {"type": kind} for each, kind in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


TOOLS = [
    tool("get_weather", "The weather in a city today.", city="string"),
    tool("get_time", "The time of day in a city.", city="string"),
    tool("convert_currency", "Converts an amount.", amount="number", source="string", target="string"),
    tool("send_email", "Sends an e-mail.", to="string", subject="string"),
    tool("set_timer", "Sets a timer.", minutes="integer"),
    tool("search_books", "Looks for books by an author.", author="string"),
]
ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("How is the weather in Lisbon today?", "get_weather", {"city": "Lisbon"}),
    ("What time is it in Tokyo?", "get_time", {"city": "Tokyo"}),
    ("Set a timer for 12 minutes.", "set_timer", {"minutes": 12}),
    ("Which books by Jane Austen do you have?", "search_books", {"author": "Jane Austen"}),
    ("Is it raining in Oslo?", "get_weather", {"city": "Oslo"}),
    ("Please wake me in 45 minutes.", "set_timer", {"minutes": 45}),
    ("How late is it in Nairobi?", "get_time", {"city": "Nairobi"}),
    ("Convert 250 USD to EUR.", "convert_currency", {"amount": 250, "source": "USD", "target": "EUR"}),
    ("Send an e-mail to ann@example.com with the subject Lunch.", "send_email", {"to": "ann@example.com"}),
    ("Find me something written by Chinua Achebe.", "search_books", {"author": "Chinua Achebe"}),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with client_of("starter", tmp_path_factory.mktemp("state")) as made:
        yield made


def asking(client: openai.OpenAI, messages: list[Any], **options: Any) -> Any:
    return client.chat.completions.create(
        model="symmoe/auto", messages=messages, tools=TOOLS, temperature=0, max_tokens=96, **options
    )  # type: ignore[call-overload]


@pytest.mark.parametrize(("text", "name", "arguments"), ASKED, ids=[text for text, *_ in ASKED])
def test_a_conversation_ends_in_the_right_call(
    client: openai.OpenAI, text: str, name: str, arguments: dict[str, Any]
) -> None:
    said = asking(client, [{"role": "user", "content": text}]).choices[0]
    print(text, "->", said.message.content, said.message.tool_calls)  # noqa: T201  (shown where it fails)
    (call,) = said.message.tool_calls
    assert (said.finish_reason, call.function.name) == ("tool_calls", name)
    given = json.loads(call.function.arguments)
    assert {each: given.get(each) for each in arguments} == arguments


def test_what_the_tool_gave_is_told_and_arguments_stream(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": ASKED[0][0]}]
    deltas = [
        each
        for chunk in asking(client, messages, stream=True)
        for choice in chunk.choices
        for each in choice.delta.tool_calls or ()
    ]
    assert json.loads("".join(each.function.arguments for each in deltas)) == {"city": "Lisbon"}
    assert len(deltas) > 3
    function = {"name": "get_weather", "arguments": '{"city": "Lisbon"}'}
    messages += [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny, 24 degrees"},
    ]
    told = asking(client, messages, tool_choice="none").choices[0]  # let it, and it calls the tool again
    assert told.finish_reason == "stop"
    assert "24" in told.message.content
