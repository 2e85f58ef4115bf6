"""Answers in OpenAI's shape, whole or as a stream of events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from symmoe.types import Generation
from symmoe.wire.answers import choices
from symmoe.wire.answers import completion as wire_completion
from symmoe.wire.answers import envelope as error_envelope

from ..errors import ApiError, internal_error
from ..events import REASONS, Finished, Piece, TurnedAway, TurnedAwayError
from ..orchestrator import Given, Request
from ..order import Report
from .telling import explanation, usage

_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all parts of one response share."""

    id: str
    model: str
    created: int
    usage: bool
    explain: bool

    @classmethod
    def new(cls, ident: str, model: str, usage: bool, explain: bool) -> Envelope:
        """The envelope of a response that begins now."""
        return cls(ident, model, int(time.time()), usage, explain)

    def around(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A whole completion or one chunk of it."""
        return wire_completion(self.id, self.model, self.created, choices, kind, **more)


def api_error(why: TurnedAway) -> ApiError:
    """What a client is told of a request that was turned away."""
    return ApiError(why.status, why.code, why.message, retry_after=why.retry_after)


async def whole(request: Request, envelope: Envelope) -> dict[str, Any]:
    """The completion, when every choice is finished. Raises `TurnedAwayError`."""
    finished: dict[int, Generation] = {}
    async for number, event in request.events():
        if isinstance(event, Finished):
            finished[number] = event.generation
    return completion(finished, request.report, envelope)


def completion(finished: Mapping[int, Generation], report: Report, envelope: Envelope) -> dict[str, Any]:
    """The completion of finished choices by their number. Raises `TurnedAwayError` for one that has no proper end."""
    for generation in finished.values():
        _reason(generation)
    more = {"symmoe": explanation(report)} if envelope.explain else {}
    return envelope.around("chat.completion", choices(finished), usage=usage(report), **more)


async def streamed(
    first: Given, rest: AsyncIterator[Given], request: Request, envelope: Envelope
) -> AsyncGenerator[bytes, None]:
    """The completion as server-sent events. `first` was waited for before, so that its failure has a status."""
    try:
        for number in range(request.order.n):
            yield _event(_chunk(envelope, number, {"role": "assistant", "content": ""}))
        yield _part(envelope, *first)
        async for given in rest:
            yield _part(envelope, *given)
        yield _last(request, envelope)
    except TurnedAwayError as error:
        yield _event(error_envelope(api_error(error.why)))
    except Exception as error:
        yield _event(error_envelope(internal_error(error, "the answer could not be finished")))
    yield _DONE


async def replayed(answer: Mapping[str, Any], envelope: Envelope) -> AsyncIterator[bytes]:
    """A completion that is there already, as server-sent events."""
    for choice in answer["choices"]:
        number = choice["index"]
        yield _event(_chunk(envelope, number, {"role": "assistant", "content": ""}))
        yield _event(_chunk(envelope, number, {"content": choice["message"]["content"]}))
        yield _event(_chunk(envelope, number, {}, choice["finish_reason"]))
    more = {
        name: answer[name] for name in ("symmoe", "usage") if name in answer and (name != "usage" or envelope.usage)
    }
    if more:
        yield _event(envelope.around("chat.completion.chunk", [], **more))
    yield _DONE


def _part(envelope: Envelope, number: int, event: Piece | Finished) -> bytes:
    if isinstance(event, Piece):
        return _event(_chunk(envelope, number, {"content": event.text}))
    return _event(_chunk(envelope, number, {}, _reason(event.generation)))


def _last(request: Request, envelope: Envelope) -> bytes:
    """What is known only at the end: usage where it was asked for, and the explanation."""
    more: dict[str, Any] = {"symmoe": explanation(request.report)} if envelope.explain else {}
    if envelope.usage:
        more["usage"] = usage(request.report)
    return _event(envelope.around("chat.completion.chunk", [], **more)) if more else b""


def _chunk(envelope: Envelope, number: int, delta: Mapping[str, str], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": number, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
    return envelope.around("chat.completion.chunk", [choice], **({"usage": None} if envelope.usage else {}))


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _reason(generation: Generation) -> str:
    """Why it ended. Raises `TurnedAwayError` where that is no way for an answer to end."""
    if generation.finish_reason not in REASONS:
        raise TurnedAwayError(TurnedAway(500, "generation_failed", "the answer was not finished"))
    return generation.finish_reason
