"""OpenAI's chat requests: what a client may send, online and in the lines of a batch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from symmoe.config import Pool, SamplingConfig
from symmoe.errors import RequestError
from symmoe.limits import IMAGES, TOOLS, TOOLS_CHARACTERS, TOP_LOGPROBS
from symmoe.policy import AUTO, Aggregate, Policy
from symmoe.tools import caller_in, forced_schema
from symmoe.types import Message, Picture, Query, Sampling, ToolCall
from symmoe.wire.sampling import Lenient, SamplingFields, Strict, Text, checked_schema


class ImageUrl(Lenient):
    """The URL of an image, which may contain it (`data:image/png;base64,…`)."""

    url: Text = Field(pattern=r"^(data:image/|https?://)")


class Part(Lenient):
    """One part of a message in parts: a text or an image."""

    type: Literal["text", "image_url"]
    text: Text = ""
    image_url: ImageUrl | None = None

    @model_validator(mode="after")
    def _there(self) -> Self:
        if self.type not in self.model_fields_set or getattr(self, self.type) is None:
            raise ValueError(f"{self.type} is missing")
        return self


class CalledFunction(Lenient):
    """The function that is called, and its arguments as a JSON object."""

    name: Text = Field(max_length=64)
    arguments: Text

    @field_validator("arguments")
    @classmethod
    def _an_object(cls, value: str) -> str:
        try:
            if not value.strip():
                return "{}"
            if isinstance(json.loads(value), dict):
                return value
        except (ValueError, RecursionError):
            pass
        raise ValueError("must be a JSON object, as text")


class CalledTool(Lenient):
    """One tool call in an assistant's turn. Its `index`, from a stream, is accepted and ignored."""

    index: Any = None
    id: Text = Field(max_length=200)
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Lenient):
    """One turn of a conversation. An assistant's may have tool calls and no text; a tool's answers a call.

    The reasoning in an assistant's turn is accepted and not passed on.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[CalledTool] | None = Field(default=None, max_length=TOOLS)
    tool_call_id: Text | None = None
    reasoning_content: Any = None
    content: Text | list[Part] | None = Field(default=None, validate_default=True)
    name: Text | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, value: Any) -> Any:
        kinds = {part.get("type") for part in value if isinstance(part, dict)} if isinstance(value, list) else set()
        if "image" in kinds:
            raise ValueError("an image is a part of the type image_url")
        if kinds & {"input_audio", "file"}:
            raise ValueError("no expert of this pool takes audio or files")
        return value

    @field_validator("content")
    @classmethod
    def _said(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and not (info.data.get("role") == "assistant" and info.data.get("tool_calls")):
            raise ValueError("must be a text, or a list of parts")
        has_images = isinstance(value, list) and any(part.type == "image_url" for part in value)
        if has_images and info.data.get("role") != "user":
            raise ValueError("images may stand in a user's turn alone")
        return value

    @property
    def text(self) -> str:
        """The turn's text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @property
    def turn(self) -> Message:
        """The turn in the pipeline's form."""
        calls = (ToolCall(c.function.name, c.function.arguments, c.id) for c in self.tool_calls or ())
        role = "system" if self.role == "developer" else self.role
        return Message(role, self.text, tuple(calls), self.tool_call_id or "", self.images)

    @property
    def images(self) -> tuple[Picture, ...]:
        """The images of its parts."""
        images, at = [], 0
        for part in self.content if isinstance(self.content, list) else ():
            at += len(part.text)
            images += [Picture(part.image_url.url, at)] if part.image_url else []
        return tuple(images)


class Function(Lenient):
    """A function that may be called; `parameters` is the JSON schema of its arguments."""

    name: Text = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Lenient):
    """A tool that may be called."""

    type: Literal["function"]
    function: Function


class NamedFunction(Lenient):
    """A function by its name."""

    name: Text


class NamedTool(Lenient):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(Lenient):
    """How an answer is streamed. `include_obfuscation` is accepted and has no effect."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SymmoeOptions(Strict):
    """How experts are chosen for this one request.

    `k` bounds how many are asked, `budget` their expected tokens, `deadline` the seconds until the answer is complete.
    No more are asked once the answer is believed to be right with a probability of `quality`.
    """

    k: int | None = Field(default=None, ge=1, le=64)
    budget: float | None = Field(default=None, ge=1, le=1e9)
    aggregate: Aggregate | None = None
    quality: float | None = Field(default=None, ge=0, le=1)
    explain: bool = False
    deadline: float | None = Field(default=None, gt=0, le=3600)


class UsageOptions(Lenient):
    """Whether an answer's `usage` includes its `cost`, as in gateways."""

    include: bool = False


class Question(Lenient):
    """A conversation and the model to ask: all that `/v1/route` needs."""

    model: Text = Field(default=AUTO, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    symmoe: SymmoeOptions = SymmoeOptions()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        images = sum(len(message.images) for message in self.messages)
        if not images and not any(message.text.strip() for message in self.messages):
            raise ValueError("the messages are empty")
        if images > IMAGES:
            raise ValueError(f"{images} images, and {IMAGES} are the most")
        return self

    def query(self, sampling: Sampling) -> Query:
        """The conversation in the pipeline's form."""
        return Query("0", tuple(message.turn for message in self.messages), sampling)


class ChatRequest(SamplingFields, Question):
    """A chat completion."""

    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1 << 30)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=TOP_LOGPROBS)
    tools: list[Tool] | None = Field(default=None, max_length=TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    usage: UsageOptions | None = None

    @property
    def most_tokens(self) -> int | None:
        """The limit on an answer's tokens, if any."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many likeliest tokens to return with each token; None for no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self, most_choices: int) -> None:
        """Raise `RequestError`, naming the field, for what no expert here can do."""
        super().check(most_choices)
        if self.modalities not in (None, ["text"]):
            message = "modalities is not supported by this service: experts write text"
            raise RequestError(message, code="unsupported_parameter", param="modalities")
        self._check_choice()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs", code="invalid_value", param="top_logprobs")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream", code="invalid_value", param="stream_options")

    def sampling(self, defaults: SamplingConfig) -> Sampling:
        """How experts generate, with the pool's defaults for what the request leaves open. Raises `RequestError`."""
        sampling, tools = super().sampling(defaults), self.callable_tools
        if not tools:
            return sampling
        text, most = json.dumps(tools, sort_keys=True), 1 if self.parallel_tool_calls is False else None
        sampling = replace(sampling, tools=text, most_calls=most)
        if len(text) > TOOLS_CHARACTERS:
            message = f"tools: {len(text)} characters as JSON, and {TOOLS_CHARACTERS} are the most"
            raise RequestError(message, code="invalid_value", param="tools")
        if self.tool_choice in (None, "auto"):
            return sampling
        if sampling.schema is not None:
            message = "tool_choice: a forced call leaves no room for another form of the answer"
            raise RequestError(message, code="invalid_value", param="tool_choice")
        self.check_ends("tool_choice")
        name = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
        return replace(sampling, schema=checked_schema(forced_schema(tools, name), "tools"))

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that may be called, each as JSON; none where the choice is `none`."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools or ()]

    def _check_choice(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise RequestError("tools: two have one name", code="invalid_value", param="tools")
        if self.tool_choice == "required" and not names:
            raise RequestError("tool_choice needs tools", code="invalid_value", param="tool_choice")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise RequestError("tool_choice: no such tool in tools", code="invalid_value", param="tool_choice")


def fitting(policy: Policy, pool: Pool, query: Query) -> Policy:
    """A query's policy without the experts that cannot take its tools or its images.

    It stays with the expert whose calls the query brings results of. Raises `RequestError` if nobody is left, or the
    named expert cannot take it.
    """
    return policy.able(_unable(pool, policy.expert, query)).staying(caller_in(query.messages, pool.names))


def _unable(pool: Pool, expert: str | None, query: Query) -> tuple[str, ...]:
    """The experts of a pool that a query cannot go to, for its tools or its images.

    `expert` is the one that it names, if it does. Raises `RequestError` where no other is left.
    """
    unable: dict[str, None] = {}
    for wanted, able, param, doing, say in (
        (
            query.sampling.tools,
            [each.name for each in pool.experts if each.tools],
            "tools",
            "call tools",
            "tools: json",
        ),
        (query.images, [each.name for each in pool.experts if each.images], "messages", "see images", "images: true"),
    ):
        if not wanted:
            continue
        unable |= dict.fromkeys(name for name in pool.names if name not in able)
        if expert in unable or len(unable) == len(pool.experts):
            subject = f"expert {expert!r}" if expert in unable else "no expert of this pool"
            message = (
                f"{subject} can{'not' if expert in unable else ''} {doing}; the pool file says which can (`{say}`)"
            )
            raise RequestError(message, code="unsupported_parameter", param=param)
    return tuple(unable)


def line_request(body: dict[str, Any]) -> ChatRequest:
    """The request in a batch's line, which cannot stream. Raises `RequestError`."""
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        raise request_error(error) from error
    if request.stream:
        raise RequestError("stream: a batch cannot stream", code="invalid_value", param="stream")
    return request


def request_error(error: ValidationError) -> RequestError:
    """The error for the first problem that validation found, naming its place."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON: {first['msg']}", code="invalid_json")
    place = ".".join(str(part) for part in first["loc"] if not _is_branch(part))[:200]
    if first["type"] == "extra_forbidden":
        return RequestError(f"unknown parameter: {place}", code="unknown_parameter", param=place)
    message = first["msg"].removeprefix("Value error, ")
    code = "missing_parameter" if first["type"] == "missing" else "invalid_value"
    return RequestError(f"{place}: {message}" if place else message, code=code, param=place or None)


def _is_branch(part: int | str) -> bool:
    """Whether a part of a place names a branch of a union, which means nothing to a client."""
    return isinstance(part, str) and (part.startswith(("list[", "function-", "constrained-")) or part in _KINDS)


_KINDS = {"str", "int", "float", "bool"}
