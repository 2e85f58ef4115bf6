"""A chat request, as OpenAI has it: what a client may send to be answered, online and in the lines of a batch."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from symmoe.config import SamplingConfig
from symmoe.engines.grammars import depth_of
from symmoe.errors import RequestError
from symmoe.limits import SCHEMA_CHARACTERS, SCHEMA_DEPTH, STOPS
from symmoe.policy import AUTO, Aggregate
from symmoe.types import Message, Query, Sampling

SEEDS = 1 << 31
"""Seeds count modulo this."""


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds a character that cannot be written") from error
    return text


Text = Annotated[str, AfterValidator(_writable)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TextPart(_Strict):
    """One part of a message that is sent in parts; only text is understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: Text | None = None

    @property
    def text(self) -> str:
        """The turn's words."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(_Strict):
    """How an answer is streamed. `include_obfuscation` is taken and changes nothing."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SymmoeOptions(_Strict):
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


class Question(_Strict):
    """A conversation and the model that is asked; what `/v1/route` needs to know."""

    model: Text = Field(default=AUTO, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    symmoe: SymmoeOptions = SymmoeOptions()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not any(message.text.strip() for message in self.messages):
            raise ValueError("the messages are empty")
        return self

    def query(self, sampling: Sampling) -> Query:
        """The conversation as the pipeline takes it."""
        turns = (Message("system" if m.role == "developer" else m.role, m.text) for m in self.messages)
        return Query("0", tuple(turns), sampling)


class ChatRequest(Question):
    """A chat completion. What experts cannot do may be there only with the value that asks for nothing."""

    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=1, ge=1, le=128)
    stop: Text | list[Text] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1 << 30)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1 << 30)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    response_format: dict[str, Any] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Text | None = None

    def sampling(self, defaults: SamplingConfig) -> Sampling:
        """How experts generate, as the pool has it where the request leaves it open."""
        temperature = defaults.temperature if self.temperature is None else self.temperature
        seed = None if self.seed is None else self.seed % SEEDS
        return Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or defaults.max_tokens,
            temperature=temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            seed=seed,
            stop=self._stops(),
            schema=schema_of(self.response_format),
        )

    def check(self, most_choices: int) -> None:
        """Refuse what no expert here can do, by name."""
        unable = {
            "tools": bool(self.tools),
            "tool_choice": self.tool_choice not in (None, "none", "auto"),
            "logprobs": bool(self.logprobs),
            "top_logprobs": bool(self.top_logprobs),
            "logit_bias": bool(self.logit_bias),
            "frequency_penalty": bool(self.frequency_penalty),
            "presence_penalty": bool(self.presence_penalty),
            "modalities": self.modalities not in (None, ["text"]),
            "store": bool(self.store),
        }
        for name, asked in unable.items():
            if asked:
                raise RequestError(f"{name} is not supported by this service", code="unsupported_parameter", param=name)
        if (self.n or 1) > most_choices:
            raise RequestError(f"n must be at most {most_choices} here", code="invalid_value", param="n")
        if len(self._stops()) > STOPS:
            raise RequestError(f"stop: at most {STOPS} sequences", code="invalid_value", param="stop")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream", code="invalid_value", param="stream_options")

    def _stops(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)


_ANY_OBJECT = {"type": "object"}
_SHAPES = 'text, json_object, or json_schema with {"json_schema": {"name": ..., "schema": {...}}}'


def schema_of(asked: dict[str, Any] | None) -> str | None:
    """The schema, as JSON, that an answer must follow; None for plain text. Raises `RequestError`."""
    if asked is None or asked == {"type": "text"}:
        return None
    schema = _ANY_OBJECT if asked == {"type": "json_object"} else _given(asked)
    if not isinstance(schema, dict):
        raise RequestError(f"response_format is not one of {_SHAPES}", code="invalid_value", param="response_format")
    if depth_of(schema) > SCHEMA_DEPTH:
        message = f"response_format: lists and objects of the schema lie more than {SCHEMA_DEPTH} deep"
        raise RequestError(message, code="invalid_value", param="response_format")
    text = json.dumps(schema, sort_keys=True)
    if len(text) > SCHEMA_CHARACTERS:
        message = f"response_format: the schema is of {len(text)} characters, and {SCHEMA_CHARACTERS} is the most"
        raise RequestError(message, code="invalid_value", param="response_format")
    return text


def _given(asked: dict[str, Any]) -> Any:
    if set(asked) != {"type", "json_schema"} or asked["type"] != "json_schema":
        return None
    told = asked["json_schema"]
    return told.get("schema") if isinstance(told, dict) and isinstance(told.get("name"), str) else None


def line_request(body: dict[str, Any]) -> ChatRequest:
    """The request in a line of a batch, which cannot stream. Raises `RequestError`."""
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        raise request_error(error) from error
    if request.stream:
        raise RequestError("stream: a batch cannot stream", code="invalid_value", param="stream")
    return request


def request_error(error: ValidationError) -> RequestError:
    """The first problem, by its place, as a client is told it."""
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
