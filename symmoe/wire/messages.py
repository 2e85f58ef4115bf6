"""Anthropic's messages: a request, its answer whole and streamed, and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from symmoe.errors import RequestError
from symmoe.limits import TOOLS
from symmoe.policy import AUTO
from symmoe.tools import CallPart, before_calls, call_id
from symmoe.types import Generation, TokenLogprob
from symmoe.wire.answers import AnswerFacts, CallsTold, event, finish_reason
from symmoe.wire.chat import ChatRequest, SymmoeOptions, UsageOptions
from symmoe.wire.sampling import Lenient, Text

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _seen(kind: Any) -> Any:
    """The type of a block; one that no expert can look at is refused by name."""
    if kind == "document":
        raise ValueError("no expert of this pool sees documents")
    return kind


def _read(kind: Any) -> Any:
    """The type of a block of what a tool gave."""
    if kind == "image":
        raise ValueError("images may stand in a user's turn alone, not in what a tool gave")
    return _seen(kind)


class ImageSource(Lenient):
    """An image, inline or by URL."""

    type: Literal["base64", "url"]
    media_type: Text = "image/png"
    data: Text = ""
    url: Text = ""


class ResultBlock(Lenient):
    """One block of a tool's result."""

    type: Annotated[Literal["text"], BeforeValidator(_read)]
    text: Text


class Block(Lenient):
    """One block of a turn or of the system prompt: text, an image, a tool call, or a tool's result."""

    type: Annotated[
        Literal["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"], BeforeValidator(_seen)
    ]
    text: Text = ""
    id: Text = ""
    name: Text = ""
    input: dict[str, Any] = Field(default_factory=dict)
    tool_use_id: Text = ""
    source: ImageSource | None = None
    content: Text | list[ResultBlock] = ""

    @property
    def part(self) -> dict[str, Any]:
        """A text or an image as a part of a chat message."""
        if self.type == "text":
            return {"type": "text", "text": self.text}
        source = self.source
        if source is None:
            return {"type": "image_url"}
        url = source.url if source.type == "url" else f"data:{source.media_type};base64,{source.data}"
        return {"type": "image_url", "image_url": {"url": url}}


class Turn(Lenient):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: Text | list[Block]

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The turn as chat messages: tool results are separate, and precede the text."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        results = [
            {"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content)}
            for block in self.content
            if block.type == "tool_result"
        ]
        calls = [
            {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": json.dumps(block.input)}}
            for block in self.content
            if block.type == "tool_use"
        ]
        content: Any = _text(self.content) or None
        if any(block.type == "image" for block in self.content):
            content = [block.part for block in self.content if block.type in ("text", "image")]
        messages = [{"role": self.role, "content": content, "tool_calls": calls or None}] if content or calls else []
        return [*results, *messages]


class Tool(Lenient):
    """A tool that may be called."""

    type: Literal["custom"] | None = None
    name: Text
    description: Text | None = None
    input_schema: dict[str, Any]

    @property
    def function(self) -> dict[str, Any]:
        """The tool in the form of chat completions."""
        definition = {"name": self.name, "description": self.description, "parameters": self.input_schema}
        return {"type": "function", "function": definition}


class Choice(Lenient):
    """Whether a tool may, or must, be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: bool = False

    @property
    def chat(self) -> Any:
        """The choice in the form of chat completions."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name or ""}}
        return "required" if self.type == "any" else self.type


class CountRequest(Lenient):
    """A conversation whose tokens are counted."""

    model: Text = Field(default=AUTO, max_length=200)
    messages: list[Turn] = Field(min_length=1, max_length=1024)
    system: Text | list[Block] | None = None
    tools: list[Tool] | None = Field(default=None, max_length=TOOLS)
    tool_choice: Choice | None = None
    symmoe: SymmoeOptions = SymmoeOptions()
    usage: UsageOptions | None = None

    def chat(self) -> ChatRequest:
        """The same as a chat request. Raises `RequestError` and `ValidationError`."""
        return ChatRequest.model_validate(self._fields())

    def _fields(self) -> dict[str, Any]:
        system = [] if not self.system else [{"role": "system", "content": _text(self.system)}]
        turns = [each for turn in self.messages for each in turn.turns]
        return {
            "model": self.model,
            "messages": [*system, *turns],
            "tools": [tool.function for tool in self.tools or ()],
            "tool_choice": self.tool_choice.chat if self.tool_choice else None,
            "parallel_tool_calls": not (self.tool_choice and self.tool_choice.disable_parallel_tool_use),
            "symmoe": self.symmoe,
            "usage": self.usage,
        }


class Format(Lenient):
    """The JSON schema that a message must follow."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Lenient):
    """How a message is written."""

    format: Format | None = None


class MessageRequest(CountRequest):
    """A request for a message."""

    max_tokens: int = Field(ge=1, le=1 << 30)
    stop_sequences: list[Text] | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1 << 20)
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    stream: bool | None = False

    def chat(self) -> ChatRequest:
        """The same as a chat request. Raises `RequestError` and `ValidationError`."""
        same = {name: getattr(self, name) for name in ("max_tokens", "temperature", "top_p", "top_k", "stream")}
        output_format = (self.output_config and self.output_config.format) or self.output_format
        response_format = output_format and {
            "type": "json_schema",
            "json_schema": {"name": "message", "schema": output_format.schema_},
        }
        return ChatRequest.model_validate(
            {**self._fields(), **same, "stop": self.stop_sequences, "response_format": response_format}
        )


def _text(content: str | Sequence[Block | ResultBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def envelope(error: RequestError, request: str = "") -> dict[str, Any]:
    """An error in Anthropic's format."""
    usual = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _TYPES.get(error.status, usual)
    details = {"type": kind, "message": str(error), "param": error.param, "code": error.code}
    return {"type": "error", "error": details, "request_id": request or None}


class MessageWriter:
    """Writes a message."""

    def __init__(self, ident: str, model: str) -> None:
        self._id, self._model = ident, model
        self._told = CallsTold()
        self._index, self._open = -1, ""

    def whole(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> dict[str, Any]:
        """The message."""
        generation = finished[0]
        text = before_calls(generation.text) if generation.calls else generation.text
        content = [_thinking(generation.reasoning)] if generation.reasoning else []
        content += [{"type": "text", "text": text}] if text or not generation.calls else []
        content += [
            self._call(CallPart(place, call.name, "", generation.expert), json.loads(call.arguments))
            for place, call in enumerate(generation.calls)
        ]
        return {**self._message(content), **_ending(generation), "usage": _usage(facts), **facts.more}

    def begin(self, choices: int) -> Iterator[bytes]:
        """The message without its content."""
        ending = {"stop_reason": None, "stop_sequence": None, "usage": _usage(AnswerFacts(0, 0))}
        yield _named("message_start", message={**self._message([]), **ending})

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[bytes]:
        """Text that was added."""
        if not text:
            return
        yield from self._opened("text", {"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def thought(self, number: int, text: str) -> Iterator[bytes]:
        """More of the reasoning."""
        yield from self._opened("thinking", _thinking(""))
        yield self._delta({"type": "thinking_delta", "thinking": text})

    def called(self, number: int, part: CallPart) -> Iterator[bytes]:
        """A part of a tool call's input; the first part names the tool."""
        if self._told.new(number, part):
            yield from self._opened(f"call {part.place}", self._call(part, {}))
        if part.arguments:
            yield self._delta({"type": "input_json_delta", "partial_json": part.arguments})

    def end(self, number: int, generation: Generation) -> Iterator[bytes]:
        """The rest of the calls, and the end of the last block."""
        for part in self._told.left(number, generation):
            yield from self.called(number, part)
        yield from self._closed()

    def _opened(self, name: str, block: dict[str, Any]) -> Iterator[bytes]:
        """A block of that name, where it is not open; the one before it is closed."""
        if self._open != name:
            yield from self._closed()
            self._open, self._index = name, self._index + 1
            yield _named("content_block_start", index=self._index, content_block=block)

    def _closed(self) -> Iterator[bytes]:
        if self._open:
            self._open = ""
            yield _named("content_block_stop", index=self._index)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _named("content_block_delta", index=self._index, delta=delta)

    def _call(self, part: CallPart, arguments: dict[str, Any]) -> dict[str, Any]:
        ident = call_id(self._id, 0, part.place, part.expert)
        return {"type": "tool_use", "id": ident, "name": part.name, "input": arguments}

    def finish(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> Iterator[bytes]:
        """Why the message ended, and its tokens, which are known only now."""
        yield _named("message_delta", delta=_ending(finished[0]), usage=_usage(facts), **facts.more)
        yield _named("message_stop")

    def failed(self, error: RequestError) -> Iterator[bytes]:
        """The error."""
        yield event(envelope(error), "error")

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        shared = {"id": f"msg_{self._id}", "type": "message", "role": "assistant"}
        return {**shared, "model": self._model, "content": content}


def _thinking(text: str) -> dict[str, Any]:
    """A block of what was thought. Anthropic's signature is there to tell it again; nobody checks it here."""
    return {"type": "thinking", "thinking": text, "signature": ""}


def _named(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def _ending(generation: Generation) -> dict[str, Any]:
    reasons = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
    why = finish_reason(generation)
    reason = "stop_sequence" if generation.stop is not None else reasons.get(why, "end_turn")
    return {"stop_reason": reason, "stop_sequence": generation.stop}


def _usage(facts: AnswerFacts) -> dict[str, Any]:
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, **facts.costs}
    return {"input_tokens": facts.prompt_tokens, "output_tokens": facts.completion_tokens, **cached}
