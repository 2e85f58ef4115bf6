"""Answers in the format of each API, whole or as a stream of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

from symmoe.config import COST_UNITS
from symmoe.tools import before_calls
from symmoe.types import Generation
from symmoe.wire.answers import AnswerFacts, Writer

from ..errors import ApiError, internal_error
from ..events import REASONS, Finished, Piece, TurnedAway, TurnedAwayError
from ..orchestrator import Given, Request
from ..order import Order, Report
from ..telemetry.note import Note
from .answer_headers import explanation


def api_error(why: TurnedAway) -> ApiError:
    """A refusal as the error for the client.

    With a 408 it says not to retry, as OpenAI's and Anthropic's clients otherwise do: a passed deadline stays passed.
    """
    headers = {"x-should-retry": "false"} if why.status == 408 else None
    return ApiError(why.status, why.code, why.message, retry_after=why.retry_after, headers=headers)


def facts_of(report: Report, order: Order) -> AnswerFacts:
    """Tokens and cost of an answer, and with `explain` how it came about, for the end of the response."""
    spent = report.prompt_tokens, report.completion_tokens
    cost = report.cost / COST_UNITS if order.costed else None
    return AnswerFacts(*spent, explanation(report) if order.explain else None, report.reasoning_tokens, cost)


async def all_finished(request: Request) -> dict[int, Generation]:
    """Wait for all choices: their generations by number. Raises `TurnedAwayError`, also if one has no valid end."""
    finished: dict[int, Generation] = {}
    while (item := await request.next()) is not None:
        number, event = item
        if isinstance(event, Finished):
            finished[number] = proper(event.generation)
    return finished


async def streamed(
    first: Given | None, following: Callable[[], Awaitable[Given | None]], request: Request, writer: Writer, note: Note
) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events.

    `first` was awaited before, so that its failure has an HTTP status; `following` returns the next, None at the end. A
    later failure ends the stream with an error event, and its code is recorded in the `note`.
    """
    finished: dict[int, Generation] = {}

    def written(number: int, event: Piece | Finished) -> bytes:
        if isinstance(event, Piece) and event.call is not None:
            return b"".join(writer.called(number, event.call))
        if isinstance(event, Piece) and event.reasoning:
            return b"".join(writer.thought(number, event.reasoning))
        if isinstance(event, Piece):
            return b"".join(writer.piece(number, event.text, event.logprobs))
        finished[number] = proper(event.generation)
        return b"".join(writer.end(number, event.generation))

    try:
        yield b"".join(writer.begin(request.order.n))
        while first is not None:
            yield written(*first)
            first = await following()
        for part in writer.finish(finished, facts_of(request.report, request.order)):
            yield part
    except Exception as error:
        unfinished = "the answer could not be finished"
        failure = api_error(error.why) if isinstance(error, TurnedAwayError) else internal_error(error, unfinished)
        note.code = failure.code
        yield b"".join(writer.failed(failure))


async def replayed(finished: Mapping[int, Generation], facts: AnswerFacts, writer: Writer) -> AsyncIterator[bytes]:
    """A finished answer, as server-sent events."""
    yield b"".join(writer.begin(len(finished)))
    for number, generation in sorted(finished.items()):
        if generation.reasoning:
            yield b"".join(writer.thought(number, generation.reasoning))
        text = before_calls(generation.text) if generation.calls else generation.text
        yield b"".join(writer.piece(number, text, generation.logprobs))
        yield b"".join(writer.end(number, generation))
    yield b"".join(writer.finish(finished, facts))


def proper(generation: Generation) -> Generation:
    """The generation itself. Raises `TurnedAwayError` if its finish reason is not one of `REASONS`."""
    if generation.finish_reason not in REASONS:
        raise TurnedAwayError(TurnedAway(500, "generation_failed", "the answer was not finished"))
    return generation
