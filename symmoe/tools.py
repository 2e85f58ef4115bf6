"""Tools that an expert may call: how it is told of them, and how its calls are read out of its text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from symmoe.types import Message, ToolCall

_OPENINGS = ("```", "<tool_call>", "{", "[")
_LONGEST_OPENING = max(map(len, _OPENINGS))
_DECODER = json.JSONDecoder()
_HEAD = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]{1,64})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
"""What a call begins with as models are taught to write it."""
_LONGEST_HEAD = 200
_MARK = 6
_BETWEEN = re.compile(r"(?:[\s,\[\]}]|```[a-z]*|</?tool_call>)*")


def calls_in(text: str, tools: str) -> tuple[ToolCall, ...]:
    """The calls in a text of an expert that knows `tools` (as `Sampling` has them).

    A call is an object, bare, fenced, in a list or between `<tool_call>` marks, whose `name` is one of the tools' and
    whose `arguments` (`parameters`) are an object or one written as JSON; the last brace may be missing. Models differ
    in how they were taught to write calls, and small ones in what they do: Qwen2.5-Coder fences what its template wants
    marked.
    """
    if not tools:
        return ()
    names, calls, place = _names(tools), list[ToolCall](), 0
    while (place := text.find("{", place)) >= 0:
        head = _HEAD.match(text, place)
        begin = head.end() if head and head[1] in names else place
        try:
            value, end = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            place += 1
            continue
        call = ToolCall(head[1], text[begin:end]) if head and begin > place else _call(value, names)
        calls += [] if call is None else [call]
        place = end
    return tuple(calls)


def before_calls(text: str) -> str:
    """What a text says before its first call."""
    return text[: _start_of_calls(text)].rstrip()


def normalised(calls: Sequence[ToolCall]) -> str:
    """Equal for calls of the same tools with the same arguments, in whatever order."""
    return json.dumps(sorted([call.name, _sorted(json.loads(call.arguments))] for call in calls))


def call_id(ident: str, number: int, place: int, expert: str) -> str:
    """What a result names a call by, at a place in a choice of the answer called `ident`; it tells who called.

    39 characters for an `ident` of 24, as OpenAI takes no more than 40.
    """
    return f"call_{ident}{number:02d}{place:02d}{_mark(expert)}"


def caller_in(messages: Sequence[Message], experts: Collection[str]) -> str | None:
    """Which of the experts made the calls whose results a conversation brings, by their ids.

    None where it brings none since an assistant spoke last, or where none of these experts made them.
    """
    last = next((n for n in reversed(range(len(messages))) if messages[n].role == "assistant"), None)
    if last is None or all(each.role != "tool" for each in messages[last + 1 :]):
        return None
    made = {call.id[-_MARK:] for call in messages[last].calls}
    callers = [expert for expert in experts if _mark(expert) in made]
    return callers[0] if len(callers) == 1 else None


def _mark(expert: str) -> str:
    """What stands for an expert in the ids of its calls."""
    return hashlib.blake2b(expert.encode(), digest_size=_MARK // 2).hexdigest()


@dataclass(frozen=True, slots=True)
class CallPart:
    """The call at a `place` among an answer's calls, as it is written: more of its arguments. `expert` is who calls."""

    place: int
    name: str
    arguments: str
    expert: str = ""


class Reading:
    """The text of an expert that may call tools as it comes: words are passed on, and so are calls as they are written.

    What may yet be a call, and one that is written in an unusual order, is held back until its text is whole: `rest`.
    The parts add up to what `before_calls` and `calls_in` make of the whole. At most so many calls are told of.
    """

    def __init__(self, tools: str, most: int | None = None) -> None:
        self._names, self._most = _names(tools) if tools else frozenset(), most
        self._text, self._passed, self._calls = "", 0, 0
        self._next: Callable[[], str | CallPart | None] = self._words
        self._name, self._depth, self._quoted, self._escaped = "", 0, False, False

    def feed(self, text: str) -> list[str | CallPart]:
        """What can be passed on now."""
        self._text += text
        parts: list[str | CallPart] = []
        while (part := self._next()) is not None:
            parts.append(part)
        return [part for part in parts if part]

    @property
    def rest(self) -> str:
        """What was held back of a text that calls nothing."""
        return "" if self._calls else self._text[self._passed :]

    def _words(self) -> str | None:
        """Words up to where a call may begin, without the space before it."""
        end = _start_of_calls(self._text)
        if end == len(self._text):  # what may yet become an opening waits
            most = min(_LONGEST_OPENING, end + 1)
            tails = (n for n in range(1, most) if any(o.startswith(self._text[-n:]) for o in _OPENINGS))
            end -= max(tails, default=0)
        else:
            self._place, self._next = end, self._between
        text = self._text[self._passed : end].rstrip()
        self._passed += len(text)
        return text if text or self._next != self._words else None

    def _between(self) -> CallPart | None:
        """The head of a call, after whatever stands before it."""
        match = _BETWEEN.match(self._text, self._place)
        begin = match.end() if match else self._place
        if self._calls == self._most or self._text[begin : begin + 1] not in ("{", "", "`", "<"):
            self._next = _nothing
            return None
        head = _HEAD.match(self._text, begin)
        if head is None or head[1] not in self._names:
            if len(self._text) - begin > _LONGEST_HEAD:
                self._next = _nothing
            return None
        self._name, self._place, self._depth, self._next = head[1], head.end(), 0, self._arguments
        self._calls += 1
        return CallPart(self._calls - 1, self._name, "")

    def _arguments(self) -> CallPart | None:
        """More of a call's arguments, up to the brace that ends them."""
        begin = self._place
        while self._place < len(self._text) and self._next == self._arguments:
            self._letter(self._text[self._place])
            self._place += 1
        if begin == self._place:
            return None
        return CallPart(self._calls - 1, self._name, self._text[begin : self._place])

    def _letter(self, letter: str) -> None:
        if self._quoted:
            self._quoted = self._escaped or letter != '"'
            self._escaped = letter == "\\" and not self._escaped
        elif letter == '"':
            self._quoted = True
        else:
            self._depth += (letter in "{[") - (letter in "}]")
            if not self._depth:
                self._next = self._between


def _nothing() -> None:
    """No more is passed on."""


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
    instructions = (
        f"You can call these functions:\n{listed}\nTo call one, answer with nothing but "
        '{"name": "the function", "arguments": {"its arguments": "..."}}.'
    )
    first, rest = (plain[0].content, plain[1:]) if plain[0].role == "system" else ("", plain)
    return [Message("system", f"{first}\n\n{instructions}".strip()), *rest]


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"The function gave: {message.content}")
    if not message.calls:
        return message
    calls = [json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}) for call in message.calls]
    return Message(message.role, "\n".join(filter(None, (message.content, *calls))))


@lru_cache(256)
def _names(tools: str) -> frozenset[str]:
    return frozenset(tool["function"]["name"] for tool in json.loads(tools))


def _start_of_calls(text: str) -> int:
    """Where a text may begin to be a call; its end where nowhere."""
    return min((place for opening in _OPENINGS if (place := text.find(opening)) >= 0), default=len(text))


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
