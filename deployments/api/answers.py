"""Responses to orders: from the cache if answered before, otherwise from the orchestrator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from symmoe.types import Generation, to_json
from symmoe.wire.answers import AnswerFacts, Writer

from ..access.cache import AnswerCache, Found
from ..events import Finished, TurnedAway
from ..orchestrator import Given, Orchestrator, Request
from ..order import Order, Report
from ..telemetry.note import Note
from .answer_headers import headers
from .completions import all_finished, facts_of, replayed, streamed
from .metrics import Metrics

Charge = Callable[[Report | None], Awaitable[None]]
"""Counts what an answer took; None for one that was there already, and took nothing."""
Watched = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""While this lasts, the function is called if whoever asked may not ask any more."""
OnAnswer = Callable[[Mapping[int, Generation], AnswerFacts], Awaitable[None]]
"""Called with an answer before its client knows that it ended."""
_REVOKED = TurnedAway(401, "invalid_api_key", "the key was revoked, or expired, while this was being answered")
_LASTING = ("x-symmoe-schema", "x-symmoe-path", "x-symmoe-experts", "x-symmoe-skills")
"""What an answer from the cache still tells of how it came about; lanes and times were those of another request."""


HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Stream(StreamingResponse):
    """Sends `parts` as server-sent events inside the context `open_in`, and in any case awaits `close` afterwards.

    That holds at the end, when the client leaves, and if it left before the first part was requested.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        open_in: AbstractContextManager[None],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(parts, media_type="text/event-stream", headers={**headers, **HEADERS})
        self._parts, self._open_in, self._close = parts, open_in, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, then clean up."""
        try:
            with self._open_in:
                await super().__call__(scope, receive, send)
        finally:
            await self._parts.aclose()
            await self._close()


class Answers:
    """Answers orders. `cache` is None if answers are not kept."""

    def __init__(self, orchestrator: Orchestrator, cache: AnswerCache | None, metrics: Metrics) -> None:
        self._orchestrator, self._cache, self._metrics = orchestrator, cache, metrics
        self._later: set[asyncio.Task[None]] = set()

    async def answer(
        self,
        order: Order,
        writer: Writer,
        extra_headers: Mapping[str, str],
        charge: Charge,
        repeatable: bool,
        note: Note,
        watched: Watched,
        on_answer: OnAnswer | None = None,
    ) -> Response:
        """The response to an order, with `extra_headers` among its headers.

        If `repeatable` the answer is looked up in the cache, and kept. `on_answer` is called with it. How it went is
        added to the `note`. A stream is `watched` while it is open. Raises `TurnedAwayError`.
        """
        lookup = await self._found(order) if repeatable else None
        note.cache = "" if lookup is None else lookup.how
        extra_headers = {**extra_headers, **({} if lookup is None else {"x-symmoe-cache": lookup.how})}
        if lookup is not None and lookup.answer is not None:
            await charge(None)
            return await _again(order, writer, lookup.answer, extra_headers, on_answer)
        request = await self._orchestrator.begin(order)
        note.report = request.report
        answering = _Answering(request, writer, charge, lookup is not None, on_answer)
        if order.stream:
            return await self._stream(answering, extra_headers, watched, note)
        finished = await self._whole(answering)
        if answering.keep:
            self._soon(self._keep(order, request.report, finished))
        facts = facts_of(request.report, order)
        if on_answer is not None:
            await on_answer(finished, facts)
        return JSONResponse(writer.whole(finished, facts), headers={**headers(request.report), **extra_headers})

    async def several(
        self, orders: Sequence[Order], writer: Writer, extra_headers: Mapping[str, str], charge: Charge, note: Note
    ) -> Response:
        """The response to several orders of one request, the choices of each after those of the one before.

        They are not looked up in the cache, and a stream of them begins when all are done. Raises `TurnedAwayError`.
        """

        async def one(order: Order) -> tuple[Report, dict[int, Generation]]:
            request = await self._orchestrator.begin(order)
            reports.append(request.report)
            return request.report, await self._whole(_Answering(request, writer, charge, False, None))

        reports = list[Report]()
        tasks = [asyncio.ensure_future(one(order)) for order in orders]
        try:
            done = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            note.report = Report.together(reports) if reports else None
        finished = dict(enumerate(part[number] for _, part in done for number in sorted(part)))
        parts = [facts_of(report, orders[0]) for report, _ in done]
        spent = sum(part.prompt_tokens for part in parts), sum(part.completion_tokens for part in parts)
        cost = None if parts[0].cost is None else sum(part.cost or 0.0 for part in parts)
        facts = AnswerFacts(*spent, parts[0].symmoe, cost=cost)
        return _given(finished, facts, writer, orders[0].stream, {**headers(done[0][0]), **extra_headers})

    async def _whole(self, answering: _Answering) -> dict[int, Generation]:
        """Every choice by its number, charged for whether or not they are finished."""
        try:
            return await all_finished(answering.request)
        finally:
            # in a task of its own: who leaves cancels this, and has used what was generated all the same
            charged = self._soon(answering.charged())
            await self._close(answering.request)
            await asyncio.shield(charged)

    async def _found(self, order: Order) -> Found | None:
        if self._cache is None:
            return None
        lookup = await self._cache.find(order)
        self._metrics.cached(lookup.how)
        return lookup

    async def _stream(
        self, answering: _Answering, extra_headers: Mapping[str, str], watched: Watched, note: Note
    ) -> Response:
        """A stream whose first piece is there: what fails before it has a status, and headers can tell of it."""
        request = answering.request

        def revoked() -> None:
            request.end(_REVOKED)

        try:
            with watched(revoked):
                first = await answering.next()
        except BaseException:
            self._soon(answering.charged())
            await self._close(request)
            raise

        async def close() -> None:
            self._soon(answering.charged())
            if answering.keep and len(answering.finished) == request.order.n:
                self._soon(self._keep(request.order, request.report, answering.finished))
            await self._close(request)

        parts = streamed(first, answering.next, request, answering.writer, note)
        return Stream(parts, {**headers(request.report), **extra_headers}, watched(revoked), close)

    async def _keep(self, order: Order, report: Report, finished: Mapping[int, Generation]) -> None:
        """Keep an answer to which all the experts asked contributed, and the reward model where there is one."""
        faulty = report.rerouted or report.failures or any(stage.failed for stage in report.stages)
        if self._cache is None or faulty:
            return
        lasting = {name: value for name, value in headers(report).items() if name in _LASTING}
        choices = {str(number): to_json(generation) for number, generation in finished.items()}
        facts = to_json(facts_of(report, order))
        await self._cache.keep(order, {"choices": choices, "told": facts, "headers": lasting})

    async def _close(self, request: Request) -> None:
        await request.close()
        self._metrics.reported(request.report)

    def _soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that goes on although whoever awaits it is cancelled."""
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return task


class _Answering:
    """One request that is being answered, with what must be done once it is."""

    def __init__(
        self, request: Request, writer: Writer, charge: Charge, keep: bool, on_answer: OnAnswer | None
    ) -> None:
        self.request, self.writer, self.keep, self._on_answer = request, writer, keep, on_answer
        self.finished: dict[int, Generation] = {}
        self._charge, self._was_charged = charge, False

    async def next(self) -> Given | None:
        """The next piece or end, None when all are over; by then the tokens are charged, and `on_answer` was called."""
        item = await self.request.next()
        if item is not None:
            number, event = item
            if isinstance(event, Finished):
                self.finished[number] = event.generation
            return item
        await self.charged()
        if self._on_answer is not None and len(self.finished) == self.request.order.n:
            await self._on_answer(self.finished, facts_of(self.request.report, self.request.order))
        return None

    async def charged(self) -> None:
        """Charge what it took, once. Of what did not finish, the prompt and the pieces that were given are charged.

        A prompt that was refused is charged by what it took to find that out.
        """
        if self._was_charged:
            return
        self._was_charged = True
        await self._charge(self.request.report)


async def _again(
    order: Order, writer: Writer, answer: dict[str, Any], extra_headers: Mapping[str, str], on_answer: OnAnswer | None
) -> Response:
    """An answer from the cache, as if it had just been given."""
    response_headers = {**answer["headers"], **extra_headers}
    finished = {int(number): Generation.from_json(row) for number, row in answer["choices"].items()}
    facts = AnswerFacts(**{**answer["told"], "cost": 0.0 if order.costed else None})
    if on_answer is not None:
        await on_answer(finished, facts)
    return _given(finished, facts, writer, order.stream, response_headers)


def _given(
    finished: Mapping[int, Generation],
    facts: AnswerFacts,
    writer: Writer,
    stream: bool,
    response_headers: Mapping[str, str],
) -> Response:
    """What is there already, whole or as if it were just being given."""
    if stream:
        response_headers = {**response_headers, **HEADERS}
        return StreamingResponse(
            replayed(finished, facts, writer), media_type="text/event-stream", headers=response_headers
        )
    return JSONResponse(writer.whole(finished, facts), headers=response_headers)
