"""Tools that an expert may call: how it is told of them, and how its calls are read out of its text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from symmoe.types import Message, ToolCall

_OPENINGS = ("```", "<tool_call>", "{", "[")
_LONGEST_OPENING = max(map(len, _OPENINGS))
_DECODER = json.JSONDecoder()


def calls_in(text: str, tools: str) -> tuple[ToolCall, ...]:
    """The calls in a text of an expert that knows `tools` (as `Sampling` has them).

    A call is an object, bare, fenced, in a list or between `<tool_call>` marks, whose `name` is one of the tools' and
    whose `arguments` (`parameters`) are an object or one written as JSON. Models differ in how they were taught to
    write calls, and small ones in what they do: Qwen2.5-Coder fences what its template wants marked.
    """
    if not tools:
        return ()
    names = _names(tools)
    return tuple(call for value in _values(text) if (call := _call(value, names)) is not None)


def before_calls(text: str) -> str:
    """What a text says before its first call."""
    return text[: _opening(text)].rstrip()


def normalised(calls: Sequence[ToolCall]) -> str:
    """Equal for calls of the same tools with the same arguments, in whatever order."""
    return json.dumps(sorted([call.name, _sorted(json.loads(call.arguments))] for call in calls))


class Held:
    """Passes on the text of an expert that may call tools, up to what may be a call."""

    def __init__(self) -> None:
        self._text, self._passed = "", 0

    def feed(self, text: str) -> str:
        """What can be passed on now."""
        self._text += text
        end = _opening(self._text)
        if end == len(self._text):  # what may yet become an opening waits
            tails = (n for n in range(1, _LONGEST_OPENING) if any(o.startswith(self._text[-n:]) for o in _OPENINGS))
            end -= max(tails, default=0)
        given = self._text[self._passed : max(end, self._passed)]
        self._passed += len(given)
        return given

    @property
    def rest(self) -> str:
        """What was held back."""
        return self._text[self._passed :]


def forced_schema(tools: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """The JSON schema of one call: of the tool of that name, or of any."""
    functions = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    shared: dict[str, Any] = {}
    calls = [_call_schema(function, shared) for function in functions]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": shared} if shared else schema


def worded(messages: Sequence[Message], tools: str) -> list[Message]:
    """A conversation in which tools are words, for a chat template that knows none."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    listed = "\n".join(json.dumps(tool["function"]) for tool in json.loads(tools))
    told = (
        f"You can call these functions:\n{listed}\nTo call one, answer with nothing but "
        '{"name": "the function", "arguments": {"its arguments": "..."}}.'
    )
    first, rest = (plain[0].content, plain[1:]) if plain[0].role == "system" else ("", plain)
    return [Message("system", f"{first}\n\n{told}".strip()), *rest]


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"The function gave: {message.content}")
    if not message.calls:
        return message
    said = [json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}) for call in message.calls]
    return Message(message.role, "\n".join(filter(None, (message.content, *said))))


@lru_cache(256)
def _names(tools: str) -> frozenset[str]:
    return frozenset(tool["function"]["name"] for tool in json.loads(tools))


def _opening(text: str) -> int:
    """Where a text may begin to be a call; its end where nowhere."""
    return min((place for opening in _OPENINGS if (place := text.find(opening)) >= 0), default=len(text))


def _values(text: str) -> Iterator[Any]:
    """The JSON objects in a text, those of lists one by one; nothing within an object."""
    place = 0
    while (found := min((n for n in (text.find("{", place), text.find("[", place)) if n >= 0), default=-1)) >= 0:
        try:
            value, place = _DECODER.raw_decode(text, found)
        except (ValueError, RecursionError):
            place = found + 1
            continue
        yield from value if isinstance(value, list) else (value,)


def _call(value: Any, names: frozenset[str]) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _call_schema(function: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    parameters = dict(function.get("parameters") or {"type": "object"})
    for name in ("$defs", "definitions"):
        shared.update(parameters.pop(name, {}))
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _sorted(value: Any) -> str:
    """Equal for equal values: numbers by value, the order of fields left aside."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, dict):
        return json.dumps({key: _sorted(each) for key, each in value.items()}, sort_keys=True)
    return json.dumps([_sorted(each) for each in value] if isinstance(value, list) else value)
