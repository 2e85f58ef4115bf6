"""OpenAI's responses: a request, its answer whole and streamed, and what is stored of it for the next turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from symmoe.errors import RequestError
from symmoe.limits import TOOLS, TOP_LOGPROBS
from symmoe.policy import AUTO
from symmoe.tools import CallPart, before_calls, call_id
from symmoe.types import Generation, TokenLogprob
from symmoe.wire.answers import AnswerFacts, CallsTold, event, logprobs_block
from symmoe.wire.answers import envelope as error_envelope
from symmoe.wire.chat import ChatRequest, SymmoeOptions, UsageOptions
from symmoe.wire.sampling import Lenient, Strict, Text

_LOGPROBS = "message.output_text.logprobs"
_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by its finish reason."""
_SAME = ("model", "stream", "temperature", "top_p", "symmoe", "usage")
"""Fields that a chat request has, too."""


class InputPart(Lenient):
    """One part of a turn: a text, or an image by URL, which may be a data URL.

    Further fields that an output's part has are accepted.
    """

    type: Literal["input_text", "output_text", "text", "input_image"]
    text: Text = ""
    image_url: Text | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _seen(cls, value: Any) -> Any:
        if value in ("input_file", "input_audio"):
            raise ValueError("no expert of this pool takes files or audio")
        return value

    @model_validator(mode="after")
    def _there(self) -> Self:
        wanted = "image_url" if self.type == "input_image" else "text"
        if wanted not in self.model_fields_set or getattr(self, wanted) is None:
            raise ValueError(f"{wanted} is missing")
        return self

    @property
    def part(self) -> dict[str, Any]:
        """The same as a part of a chat message."""
        if self.type == "input_image":
            return {"type": "image_url", "image_url": {"url": self.image_url}}
        return {"type": "text", "text": self.text}


class InputItem(Lenient):
    """One item of the input: a turn, a call of a tool, or what a tool gave. What was thought is not told again.

    Clients send items back as they got them: with their `id` and `status`, which say nothing here.
    """

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    id: Text | None = None
    status: Text | None = None
    role: Literal["system", "developer", "user", "assistant"] = "user"
    content: Text | list[InputPart] = ""
    call_id: Text = ""
    name: Text = ""
    arguments: Text = "{}"
    output: Text | list[InputPart] = ""

    @model_validator(mode="before")
    @classmethod
    def _without_thoughts(cls, value: Any) -> Any:
        return {"type": "reasoning"} if isinstance(value, dict) and value.get("type") == "reasoning" else value

    @property
    def turn(self) -> dict[str, Any]:
        """The item as a chat message."""
        if self.type == "function_call":
            function = {"name": self.name, "arguments": self.arguments}
            call = {"id": self.call_id, "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        if self.type == "function_call_output":
            return {"role": "tool", "tool_call_id": self.call_id, "content": _text(self.output)}
        if isinstance(self.content, list) and any(part.type == "input_image" for part in self.content):
            return {"role": self.role, "content": [part.part for part in self.content]}
        return {"role": self.role, "content": _text(self.content)}


def _text(content: str | list[InputPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _joined(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with an assistant's words and calls that follow each other as one turn, as chat templates want them."""
    merged: list[dict[str, Any]] = []
    for turn in turns:
        if "tool_calls" in turn and merged and merged[-1]["role"] == "assistant":
            merged[-1] = {**merged[-1], "tool_calls": [*merged[-1].get("tool_calls", ()), *turn["tool_calls"]]}
        else:
            merged.append(turn)
    return merged


class Tool(Lenient):
    """A function that may be called."""

    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Choice(Lenient):
    """The one function that must be called."""

    type: Literal["function"]
    name: Text


class TextFormat(Lenient):
    """What the text must follow."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextOptions(Lenient):
    """How the text is written."""

    format: TextFormat | None = None


class ResponseRequest(Lenient):
    """A request for a response. `previous_response_id` names the one whose conversation continues."""

    UNABLE: ClassVar[Mapping[str, str]] = {
        "background": "send a batch",
        "conversation": "say previous_response_id",
        "prompt": "say instructions and input",
    }

    model: Text = Field(default=AUTO, max_length=200)
    input: Text | list[InputItem] = Field(min_length=1)
    instructions: Text | None = None
    previous_response_id: Text | None = Field(default=None, max_length=100)
    store: bool | None = True
    stream: bool | None = False
    max_output_tokens: int | None = Field(default=None, ge=1, le=1 << 30)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=TOP_LOGPROBS)
    include: list[Text] | None = None
    text: TextOptions | None = None
    tools: list[Tool] | None = Field(default=None, max_length=TOOLS)
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[Text, Text] | None = Field(default=None, max_length=16)
    user: Text | None = None
    symmoe: SymmoeOptions = SymmoeOptions()
    usage: UsageOptions | None = None

    def turns(self, before: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """The conversation as chat messages, after those `before`, without the instructions."""
        own_turns = (
            [{"role": "user", "content": self.input}]
            if isinstance(self.input, str)
            else _joined([item.turn for item in self.input if item.type != "reasoning"])
        )
        return [*map(dict, before), *own_turns]

    def chat(self, turns: Sequence[Mapping[str, Any]]) -> ChatRequest:
        """The same as a chat request over these turns. Raises `RequestError` and `ValidationError`."""
        for name, alternative in self.UNABLE.items():
            if (self.model_extra or {}).get(name):
                message = f"{name} is not supported by this service; {alternative}"
                raise RequestError(message, code="unsupported_parameter", param=name)
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        with_logprobs = _LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
        return ChatRequest.model_validate(
            {
                **{name: getattr(self, name) for name in _SAME},
                "messages": [*system, *turns],
                "max_completion_tokens": self.max_output_tokens,
                "logprobs": with_logprobs,
                "top_logprobs": self.top_logprobs if with_logprobs else None,
                "response_format": self._format(),
                "tools": [{"type": "function", "function": _function(tool)} for tool in self.tools or ()],
                "tool_choice": self._choice(),
                "parallel_tool_calls": self.parallel_tool_calls,
            }
        )

    def _choice(self) -> Any:
        choice = self.tool_choice
        return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, Choice) else choice

    def _format(self) -> dict[str, Any] | None:
        text_format = self.text.format if self.text else None
        if text_format is None or text_format.type != "json_schema":
            return None if text_format is None else {"type": text_format.type}
        return {"type": "json_schema", "json_schema": {"name": text_format.name, "schema": text_format.schema_}}


def _function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}


class Kept(Strict):
    """A stored response: the document for clients, and the conversation so far."""

    response: dict[str, Any]
    turns: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a response's output, as it is before its text comes."""

    kind: Literal["reasoning", "message", "call"]
    shown: dict[str, Any]


class ResponseWriter:
    """Writes a response. `kept` says whether a later one can continue it."""

    def __init__(self, ident: str, request: ResponseRequest) -> None:
        self._id, self._request, self._created = ident, request, int(time.time())
        self.kept = request.store is not False
        self._number, self._told = -1, CallsTold()
        self._open: Item | None = None
        self._parts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._textless: list[TokenLogprob] = []
        self._items = 0

    def whole(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> dict[str, Any]:
        """The response."""
        generation = finished[0]
        cut = _CUT.get(generation.finish_reason)
        incomplete = {"reason": cut} if cut else None
        text = _said(generation)
        output = [self._reasoning(generation.reasoning)] if generation.reasoning else []
        output += [self._message(text, generation)] if text or not generation.calls else []
        output += [
            self._call(CallPart(place, call.name, call.arguments, generation.expert))
            for place, call in enumerate(generation.calls)
        ]
        return self._response("incomplete" if cut else "completed", output, incomplete, facts)

    def begin(self, choices: int) -> Iterator[bytes]:
        """The response without its output."""
        opened = self._response("in_progress", [])
        yield self._event("response.created", response=opened)
        yield self._event("response.in_progress", response=opened)

    def thought(self, number: int, text: str) -> Iterator[bytes]:
        """More of the reasoning."""
        yield from self._opened(Item("reasoning", self._reasoning("")))
        self._parts.append(text)
        yield self._event("response.reasoning_text.delta", **self._place, content_index=0, delta=text)

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[bytes]:
        """Text that was added. Tokens without any, such as those of reasoning, wait for some: they open no message."""
        if not text and (self._open is None or self._open.kind != "message"):
            self._textless += logprobs
        elif text or logprobs:
            yield from self._opened(Item("message", self._message("")))
            logprobs, self._textless = [*self._textless, *logprobs], []
            self._parts.append(text)
            self._logprobs += logprobs
            fields = {"delta": text, "logprobs": _told(logprobs)}
            yield self._event("response.output_text.delta", **self._place, content_index=0, **fields)

    def called(self, number: int, part: CallPart) -> Iterator[bytes]:
        """A part of a tool call; the first part names the tool."""
        if self._told.new(number, part):
            yield from self._opened(Item("call", self._call(replace(part, arguments=""))))
        if part.arguments:
            self._parts.append(part.arguments)
            yield self._event("response.function_call_arguments.delta", **self._place, delta=part.arguments)

    def end(self, number: int, generation: Generation) -> Iterator[bytes]:
        """The rest of the calls, and the end of the last item; an empty message if there is no other item."""
        if not generation.calls and (self._open is None or self._open.kind == "reasoning"):
            yield from self._opened(Item("message", self._message("")))
        for part in self._told.left(number, generation):
            yield from self.called(number, part)
        yield from self._closed(generation)

    def _opened(self, item: Item) -> Iterator[bytes]:
        """An item, where it is not open; the one before it is over."""
        if self._open is not None and self._open.shown["id"] == item.shown["id"]:
            return
        yield from self._closed()
        self._open, self._parts, self._logprobs = item, [], []
        shown = {**item.shown, "status": "in_progress", **({} if item.kind == "call" else {"content": []})}
        yield self._event("response.output_item.added", output_index=self._items, item=shown)
        if item.kind != "call":
            part = item.shown["content"][0]
            yield self._event("response.content_part.added", **self._place, content_index=0, part=part)

    def _closed(self, generation: Generation | None = None) -> Iterator[bytes]:
        """The end of the item that is open, if one is."""
        if self._open is None:
            return
        kind, shown, text = self._open.kind, self._open.shown, "".join(self._parts)
        if kind == "call":
            item = {**shown, "arguments": text}
            fields = {"name": item["name"], "arguments": text}
            yield self._event("response.function_call_arguments.done", **self._place, **fields)
        else:
            item = self._reasoning(text) if kind == "reasoning" else self._message(text, generation, self._logprobs)
            part = item["content"][0]
            fields = {"text": text} if kind == "reasoning" else {"text": text, "logprobs": part["logprobs"]}
            name = "reasoning_text" if kind == "reasoning" else "output_text"
            yield self._event(f"response.{name}.done", **self._place, content_index=0, **fields)
            yield self._event("response.content_part.done", **self._place, content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=self._items, item=item)
        self._open, self._items = None, self._items + 1

    def _call(self, part: CallPart) -> dict[str, Any]:
        ident = call_id(self._id, 0, part.place, part.expert)
        shared = {"id": f"fc_{ident[5:]}", "type": "function_call", "status": "completed", "call_id": ident}
        return {**shared, "name": part.name, "arguments": part.arguments}

    def finish(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> Iterator[bytes]:
        """The complete response."""
        response = self.whole(finished, facts)
        yield self._event(f"response.{response['status']}", response=response)

    def failed(self, error: RequestError) -> Iterator[bytes]:
        """The response with its error."""
        body = error_envelope(error)["error"]
        response = self._response("failed", []) | {"error": {"code": "server_error", "message": body["message"]}}
        yield self._event("response.failed", response=response)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._open and self._open.shown["id"], "output_index": self._items}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def _message(
        self, text: str, generation: Generation | None = None, logprobs: Sequence[TokenLogprob] = ()
    ) -> dict[str, Any]:
        cut = generation is not None and generation.finish_reason in _CUT
        shared = {"id": f"msg_{self._id}", "type": "message", "role": "assistant"}
        part = _part(text, generation.logprobs if generation else logprobs)
        return {**shared, "status": "incomplete" if cut else "completed", "content": [part]}

    def _reasoning(self, text: str) -> dict[str, Any]:
        part = {"type": "reasoning_text", "text": text}
        return {"id": f"rs_{self._id}", "type": "reasoning", "status": "completed", "summary": [], "content": [part]}

    def _response(
        self,
        status: str,
        output: list[dict[str, Any]],
        incomplete: dict[str, Any] | None = None,
        facts: AnswerFacts | None = None,
    ) -> dict[str, Any]:
        request = self._request
        choice = request.tool_choice or "auto"
        form = (
            request.text.model_dump(by_alias=True, exclude_none=True) if request.text else {"format": {"type": "text"}}
        )
        same = ("model", "instructions", "previous_response_id", "max_output_tokens", "temperature", "top_p", "user")
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            **{name: getattr(request, name) for name in same},
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "tool_choice": request.tool_choice.model_dump() if isinstance(request.tool_choice, Choice) else choice,
            "tools": [tool.model_dump() for tool in request.tools or ()],
            "text": form,
            "truncation": "disabled",
            "store": self.kept,
            "metadata": request.metadata or {},
            "usage": None if facts is None else _usage(facts),
            **({} if facts is None else facts.more),
        }


def _said(generation: Generation) -> str:
    return before_calls(generation.text) if generation.calls else generation.text


def _part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _told(logprobs)}


def _told(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    block = logprobs_block(logprobs)
    return [] if block is None else list(block["content"])


def _usage(facts: AnswerFacts) -> dict[str, Any]:
    return {
        "input_tokens": facts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": facts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": facts.reasoning_tokens},
        "total_tokens": facts.prompt_tokens + facts.completion_tokens,
        **facts.costs,
    }
