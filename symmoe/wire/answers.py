"""Answers, errors and the rows of a batch, in the formats of OpenAI's chat completions."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from symmoe.errors import RequestError
from symmoe.tools import CallPart, before_calls, call_id
from symmoe.types import Generation, TokenLogprob

Count = Literal["answered", "failed"]
_QUOTA = "insufficient_quota"
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # ASCII: some readers take U+2028 for the end of a line
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


def envelope(error: RequestError) -> dict[str, Any]:
    """An error in OpenAI's format."""
    kind = _QUOTA if error.code == _QUOTA else _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def usage(facts: AnswerFacts) -> dict[str, Any]:
    """The `usage` object of an answer."""
    spent: dict[str, Any] = {
        "prompt_tokens": facts.prompt_tokens,
        "completion_tokens": facts.completion_tokens,
        "total_tokens": facts.prompt_tokens + facts.completion_tokens,
        **facts.costs,
    }
    if facts.reasoning_tokens:
        spent["completion_tokens_details"] = {"reasoning_tokens": facts.reasoning_tokens}
    return spent


def choices(ident: str, finished: Mapping[int, Generation]) -> list[dict[str, Any]]:
    """The finished choices of the completion with that id, by number."""
    return [
        {
            "index": number,
            "message": _message(ident, number, generation),
            "logprobs": logprobs_block(generation.logprobs),
            "finish_reason": finish_reason(generation),
        }
        for number, generation in sorted(finished.items())
    ]


def _message(ident: str, number: int, generation: Generation) -> dict[str, Any]:
    thought = {"reasoning_content": generation.reasoning} if generation.reasoning else {}
    if not generation.calls:
        return {"role": "assistant", **thought, "content": generation.text, "refusal": None}
    content, calls = before_calls(generation.text) or None, tool_calls(ident, number, generation)
    return {"role": "assistant", **thought, "content": content, "refusal": None, "tool_calls": calls}


def tool_calls(ident: str, number: int, generation: Generation) -> list[dict[str, Any]]:
    """The tool calls of a choice, each with an id of its own."""
    return [
        {
            "id": call_id(ident, number, place, generation.expert),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for place, call in enumerate(generation.calls)
    ]


def finish_reason(generation: Generation) -> str:
    """Why a choice ended, in chat completions' terms."""
    return "tool_calls" if generation.calls and generation.finish_reason == "stop" else generation.finish_reason


def logprobs_block(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Tokens with their log-probabilities; None for none."""
    if not tokens:
        return None
    entries = ({**_token(t.token, t.logprob), "top_logprobs": [_token(*each) for each in t.top]} for t in tokens)
    return {"content": list(entries), "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def completion(
    ident: str, model: str, created: int, choices: Sequence[dict[str, Any]], kind: str = "chat.completion", **more: Any
) -> dict[str, Any]:
    """A whole chat completion, or another `kind` of the same form; `created` is in seconds since 1970."""
    shared = {"id": f"chatcmpl-{ident}", "object": kind, "created": created, "model": model}
    return {**shared, "choices": list(choices), **more}


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What is known of an answer at its end: its tokens and, if requested, its explanation and `cost`.

    The cost is in the pool's currency.
    """

    prompt_tokens: int
    completion_tokens: int
    symmoe: Mapping[str, Any] | None = None
    reasoning_tokens: int = 0
    cost: float | None = None

    @property
    def costs(self) -> dict[str, Any]:
        """The fields beside the tokens in `usage`."""
        return {} if self.cost is None else {"cost": self.cost}

    @property
    def more(self) -> dict[str, Any]:
        """The fields beside any answer."""
        return {} if self.symmoe is None else {"symmoe": self.symmoe}


class Writer(Protocol):
    """Writes one answer in the format of its API: whole, or as server-sent events while it comes."""

    def whole(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> dict[str, Any]:
        """The document of an answer whose choices are finished."""
        ...

    def begin(self, choices: int) -> Iterator[bytes]:
        """The beginning of a stream of so many choices."""
        ...

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[bytes]:
        """Text added to a choice; never called after the choice's end."""
        ...

    def thought(self, number: int, text: str) -> Iterator[bytes]:
        """More of the reasoning that precedes a choice's text."""
        ...

    def called(self, number: int, part: CallPart) -> Iterator[bytes]:
        """More of a tool call; its first part names the tool. No text follows it."""
        ...

    def end(self, number: int, generation: Generation) -> Iterator[bytes]:
        """The end of a choice; its text was all written before, its calls as far as `called` was given them."""
        ...

    def finish(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> Iterator[bytes]:
        """The end of all choices."""
        ...

    def failed(self, error: RequestError) -> Iterator[bytes]:
        """The error event for a stream that cannot be finished."""
        ...


def event(document: Mapping[str, Any], name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class CallsTold:
    """How much of its choices' tool calls a stream has sent."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, int], int] = {}

    def new(self, number: int, part: CallPart) -> bool:
        """Whether the part is the first of its call; it is then noted."""
        place = number, part.place
        first = place not in self._told
        self._told[place] = self._told.get(place, 0) + len(part.arguments)
        return first

    def left(self, number: int, generation: Generation) -> Iterator[CallPart]:
        """The unsent rest of a finished choice's calls."""
        for place, call in enumerate(generation.calls):
            begin = self._told.get((number, place), 0)
            if (number, place) not in self._told:
                yield CallPart(place, call.name, "", generation.expert)
            for start in range(begin, len(call.arguments), _ARGUMENT_PART):
                yield CallPart(place, call.name, call.arguments[start : start + _ARGUMENT_PART], generation.expert)


_ARGUMENT_PART = 4096
DONE = b"data: [DONE]\n\n"


class ChatWriter:
    """Writes a chat completion. `usage` says whether a stream reports tokens."""

    def __init__(self, ident: str, model: str, usage: bool = False) -> None:
        self._id, self._model, self._usage, self._created = ident, model, usage, int(time.time())
        self._told, self._tokens = CallsTold(), Counter[int]()

    def whole(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> dict[str, Any]:
        """The completion."""
        found = choices(self._id, finished)
        return completion(self._id, self._model, self._created, found, usage=usage(facts), **facts.more)

    def begin(self, choices: int) -> Iterator[bytes]:
        """Each choice's role."""
        for number in range(choices):
            yield self._chunk(number, {"role": "assistant", "content": ""})

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[bytes]:
        """A chunk of text."""
        self._tokens[number] += len(logprobs)
        yield self._chunk(number, {"content": text}, logprobs=logprobs)

    def thought(self, number: int, text: str) -> Iterator[bytes]:
        """A chunk of reasoning."""
        yield self._chunk(number, {"reasoning_content": text})

    def called(self, number: int, part: CallPart) -> Iterator[bytes]:
        """A chunk of a tool call; the first one names the tool."""
        function = {"arguments": part.arguments}
        call: dict[str, Any] = {"index": part.place}
        if self._told.new(number, part):
            call |= {"id": call_id(self._id, number, part.place, part.expert), "type": "function"}
            function = {"name": part.name, **function}
        yield self._chunk(number, {"tool_calls": [{**call, "function": function}]})

    def end(self, number: int, generation: Generation) -> Iterator[bytes]:
        """The rest of the calls, and the chunk that says why a choice ended, with the tokens not sent with any text."""
        for part in self._told.left(number, generation):
            yield from self.called(number, part)
        yield self._chunk(number, {}, finish_reason(generation), generation.logprobs[self._tokens[number] :])

    def finish(self, finished: Mapping[int, Generation], facts: AnswerFacts) -> Iterator[bytes]:
        """Usage if requested, and how the answer came about."""
        more = facts.more
        if self._usage:
            more["usage"] = usage(facts)
        if more:
            yield self._event([], **more)
        yield DONE

    def failed(self, error: RequestError) -> Iterator[bytes]:
        """The error, and the end."""
        yield event(envelope(error))
        yield DONE

    def _chunk(
        self,
        number: int,
        delta: Mapping[str, Any],
        reason: str | None = None,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": logprobs_block(logprobs), "finish_reason": reason}
        return self._event([choice], **({"usage": None} if self._usage else {}))

    def _event(self, choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
        return event(completion(self._id, self._model, self._created, choices, "chat.completion.chunk", **more))


def line_id(batch: str, number: int | str) -> str:
    """The request id of a line, from its number or name: the same whenever the batch is resumed."""
    return hashlib.blake2b(f"{batch}/{number}".encode(), digest_size=12).hexdigest()


def response_row(
    batch: str, number: int | str, custom_id: str, status: int, body: Mapping[str, Any]
) -> tuple[dict[str, Any], Count]:
    """The row of a line with a response, and whether it counts as answered or failed."""
    ident = line_id(batch, number)
    response = {"status_code": status, "request_id": f"req_{ident}", "body": body}
    return _row(ident, custom_id, response, None), "answered" if status == 200 else "failed"


def bad_row(batch: str, number: int, custom_id: str | None, code: str, message: str) -> dict[str, Any]:
    """The row of a line that could not be asked."""
    return _row(line_id(batch, number), custom_id, None, {"code": code, "message": message, "line": number})


def row_text(row: Mapping[str, Any]) -> str:
    """A row as JSON, without a line break."""
    return _ENCODER.encode(row)


def row_parts(row: Mapping[str, Any]) -> list[str]:
    """The same in many parts, for a large row: encoding it whole is faster, but holds up other threads."""
    return list(_ENCODER.iterencode(row))


def _row(
    ident: str, custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None
) -> dict[str, Any]:
    return {"id": f"batch_req_{ident}", "custom_id": custom_id, "response": response, "error": error}
