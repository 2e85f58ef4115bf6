"""Text completions, OpenAI's older API in which an expert continues a prompt; and embeddings."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from symmoe.errors import RequestError
from symmoe.limits import EMBEDDED_TEXTS, PROMPTS
from symmoe.policy import AUTO
from symmoe.tools import CallPart
from symmoe.types import Generation, TokenLogprob
from symmoe.wire.answers import DONE, AnswerFacts, envelope, event, usage
from symmoe.wire.chat import ChatRequest, StreamOptions, SymmoeOptions, UsageOptions
from symmoe.wire.sampling import Lenient, SamplingFields, Text


class CompletionRequest(SamplingFields):
    """A text completion."""

    REFUSED: ClassVar[Mapping[str, str]] = {**SamplingFields.REFUSED, "suffix": ""}

    model: Text = Field(default=AUTO, max_length=200)
    prompt: Text | list[Text] = Field(min_length=1)
    symmoe: SymmoeOptions = SymmoeOptions()
    usage: UsageOptions | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=16, ge=1, le=1 << 30)
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = False
    best_of: int | None = Field(default=None, ge=1)

    @field_validator("prompt", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
            raise ValueError("texts, not tokens: experts have different ones")
        return value

    @property
    def prompts(self) -> list[str]:
        """All prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def check(self, most_choices: int) -> None:
        """Raise `RequestError`, naming the field, for what no expert here can do."""
        super().check(most_choices)
        if len(self.prompts) * (self.n or 1) > PROMPTS and len(self.prompts) > 1:
            message = f"prompt: at most {PROMPTS} choices of all prompts together"
            raise RequestError(message, code="invalid_value", param="prompt")
        if self.best_of not in (None, self.n or 1):
            raise RequestError("best_of must be n here", code="unsupported_parameter", param="best_of")
        if self.echo and self.logprobs is not None:
            message = "echo with logprobs is not supported: prompts have no log-probabilities here"
            raise RequestError(message, code="unsupported_parameter", param="echo")

    def chats(self) -> list[ChatRequest]:
        """Each prompt as a chat request with a single message. Raises `RequestError` and `ValidationError`."""
        shared = {name: getattr(self, name) for name in SamplingFields.model_fields}
        more: dict[str, Any] = {"model": self.model, "symmoe": self.symmoe, "stream_options": self.stream_options}
        more |= {"usage": self.usage, "logprobs": self.logprobs is not None, "top_logprobs": self.logprobs}
        same = {**shared, **more}
        return [
            ChatRequest.model_validate({**same, "messages": [{"role": "user", "content": prompt}]})
            for prompt in self.prompts
        ]


class CompletionWriter:
    """Writes a text completion. `echoed` are the prompts, if each is to precede its texts."""

    def __init__(self, ident: str, model: str, usage: bool = False, echoed: Sequence[str] = ()) -> None:
        self._id, self._model, self._usage, self._created = ident, model, usage, int(time.time())
        self._echoed, self._choices = echoed, 1
        self._lengths: dict[int, int] = {}

    def whole(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> dict[str, Any]:
        """The completion."""
        self._choices = len(finished)
        choices = [
            self._choice(number, self._echo(number) + generation.text, generation.logprobs, generation.finish_reason)
            for number, generation in sorted(finished.items())
        ]
        return self._document(choices, usage=usage(facts), **facts.more)

    def begin(self, choices: int) -> Iterator[bytes]:
        """The prompt, if it is echoed."""
        self._choices = choices
        for number in range(choices if self._echoed else 0):
            yield event(self._document([self._choice(number, self._echo(number))]))

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[bytes]:
        """A chunk of text."""
        yield event(self._document([self._choice(number, text, logprobs)]))

    def thought(self, number: int, text: str) -> Iterator[bytes]:
        """Nothing: a raw continuation has no separate reasoning."""
        return iter(())

    def called(self, number: int, part: CallPart) -> Iterator[bytes]:
        """Nothing: completions have no tools."""
        return iter(())

    def end(self, number: int, generation: Generation) -> Iterator[bytes]:
        """The chunk that says why a choice ended."""
        yield event(self._document([self._choice(number, "", reason=generation.finish_reason)]))

    def finish(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> Iterator[bytes]:
        """Usage if requested, and how the answer came about."""
        more = facts.more
        if self._usage:
            more["usage"] = usage(facts)
        if more:
            yield event(self._document([], **more))
        yield DONE

    def failed(self, error: RequestError) -> Iterator[bytes]:
        """The error, and the end."""
        yield event(envelope(error))
        yield DONE

    def _echo(self, number: int) -> str:
        """What stands before a choice; those of a prompt are side by side."""
        return self._echoed[number * len(self._echoed) // self._choices] if self._echoed else ""

    def _document(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        shared = {"id": f"cmpl-{self._id}", "object": "text_completion", "created": self._created}
        return {**shared, "model": self._model, "choices": choices, **more}

    def _choice(
        self, number: int, text: str, logprobs: Sequence[TokenLogprob] = (), reason: str | None = None
    ) -> dict[str, Any]:
        token_logprobs = self._logprobs(number, logprobs) if logprobs else None
        return {"index": number, "text": text, "logprobs": token_logprobs, "finish_reason": reason}

    def _logprobs(self, number: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Tokens in lists side by side; offsets go on from chunk to chunk."""
        offsets, length = [], self._lengths.get(number, 0)
        for token in tokens:
            offsets.append(length)
            length += len(token.token)
        self._lengths[number] = length
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens],
            "text_offset": offsets,
        }


EMBEDDER = "symmoe/embedder"
"""The name of the embedder that a pool routes with."""


class EmbeddingRequest(Lenient):
    """Texts to be embedded."""

    model: Text = Field(default=EMBEDDER, max_length=200)
    input: Text | list[Text] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(default=None, ge=1)
    user: Text | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
            raise ValueError("texts, not tokens: whose tokens they are cannot be told")
        if isinstance(value, list) and len(value) > EMBEDDED_TEXTS:
            raise ValueError(f"at most {EMBEDDED_TEXTS} texts")
        return value

    @property
    def texts(self) -> list[str]:
        """All texts."""
        return [self.input] if isinstance(self.input, str) else self.input


def embeddings(
    model: str, vectors: NDArray[np.float32], encoding: Literal["float", "base64"] | None, tokens: int
) -> dict[str, Any]:
    """The response with the `[n, d]` vectors of n texts, in order, and their total tokens."""
    written: Sequence[Any] = vectors.tolist()
    if encoding == "base64":
        written = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    data = [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(written)]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
