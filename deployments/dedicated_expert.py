"""An expert on its own server of `ray.serve.llm`, behind the protocol of expert replicas.

It runs alone there: the first to come get a place, others wait, and beyond a limit they are turned away.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from symmoe.engines.arguments import SAME_TO_VLLM, format_fields
from symmoe.engines.readers import Parted, Reader
from symmoe.engines.streams import Stripped
from symmoe.errors import first_line
from symmoe.planning.turns import Turns, Waiting
from symmoe.types import Generation, TokenLogprob

from .events import (
    Asked,
    Begun,
    End,
    EngineState,
    Event,
    Gathered,
    Piece,
    Tell,
    TurnedAway,
    TurnedAwayError,
    ended,
    finished,
    overloaded,
    piece,
)
from .prompts import Prompts

Result = TypeVar("Result")


class Places:
    """The `turns` of a single expert, whose turn it always is. Used in one event loop."""

    def __init__(self, expert: str, turns: Turns, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns, self._clock = turns, clock
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._again: dict[str, asyncio.Future[None]] = {}
        self._limits: dict[str, asyncio.Timeout] = {}
        turns.loaded(expert, 0.0, clock())

    @property
    def running(self) -> int:
        """How many requests have a place."""
        return self._turns.running

    @property
    def waiting(self) -> dict[str, int]:
        """How many requests wait for a place, by expert."""
        return dict(self._turns.waiting)

    async def taken(self, asked: Asked) -> float:
        """Wait for a place; returns the seconds waited. The place must be given back with `leave`.

        Raises `TurnedAwayError` where too many wait already, or the request's patience ends.
        """
        arrived = self._clock()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[asked.id] = place
        waiting = Waiting(asked.id, asked.expert, asked.key, arrived, arrived + asked.patience, asked.background)
        out = self._turns.arrive(waiting)
        if out is not None and not (refused := self._waiting.pop(out.id)).done():  # else it left in this very moment
            refused.set_exception(TurnedAwayError(overloaded(self._turns.wait())))
        self._fill()
        await self._given(place, asked.patience)
        return self._clock() - arrived

    async def kept(self, asked: Asked, work: Callable[[int], Awaitable[Result]]) -> Result:
        """The result of `work`, called with how often it was begun before, while a background request has its place.

        If the request gives way to others, `work` is cancelled and begun anew in another place.
        """
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(None) as limit:
                    self._limits[asked.id] = limit
                    if asked.id in self._again:  # it gave way before it had begun
                        limit.reschedule(0.0)
                    return await work(attempt)
            except TimeoutError:
                if asked.id not in self._again:
                    raise
            finally:
                self._limits.pop(asked.id, None)
            await self._given(self._again.pop(asked.id), asked.patience)
            attempt += 1

    async def _given(self, place: asyncio.Future[None], patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await place
        except TimeoutError:
            waited = f"no place was free within {patience:.0f} s"
            raise TurnedAwayError(TurnedAway(503, "waited_too_long", waited, 1.0)) from None

    def leave(self, ident: str) -> None:
        """End a request, finished or cancelled; the next one begins."""
        self._waiting.pop(ident, None)
        self._again.pop(ident, None)
        self._turns.leave(ident)
        self._fill()

    @contextmanager
    def leaving(self, ident: str) -> Iterator[None]:
        """`leave` when the block ends."""
        try:
            yield
        finally:
            self.leave(ident)

    def _fill(self) -> None:
        for waiting in self._turns.give_way(self._clock()):
            loop = asyncio.get_running_loop()
            self._waiting[waiting.id] = self._again[waiting.id] = loop.create_future()
            if waiting.id in self._limits:
                self._limits[waiting.id].reschedule(loop.time())
        for waiting in self._turns.begin(self._clock()):
            place = self._waiting.pop(waiting.id, None)
            if place is None or place.done():
                self._turns.leave(waiting.id)
            else:
                place.set_result(None)


_BROKE_OFF = TurnedAway(503, "expert_lost", "the engine broke off", 1.0, again=True)


class DedicatedExpert:
    """Generates for the expert `name` on an `LLMServer` of `ray.serve.llm`. Prompts are tokenised here, as elsewhere.

    `request` makes the server's completion request from OpenAI's fields. If the server fails, its generations end with
    `expert_lost`.
    """

    def __init__(
        self,
        name: str,
        server: Any,
        request: Callable[..., Any],
        prompts: Prompts,
        window: int,
        places: Places,
        reader: Reader | None = None,
    ) -> None:
        self._name, self._server, self._request = name, server, request
        self._prompts, self._window, self._places, self._reader = prompts, window, places, reader

    async def complete(self, asked: Asked) -> list[Event]:
        """All events of a generation, once it has ended."""
        events: list[Event] = []
        events.append(await self._asked(asked, events.append))
        return events

    async def stream(self, asked: Asked) -> AsyncGenerator[list[Event], None]:
        """The events of a generation as they happen, those close together as one list."""
        gathered, done = Gathered(), False

        async def work() -> None:
            end: End = _BROKE_OFF
            try:
                end = await self._asked(asked, gathered.put)
            finally:
                gathered.put(end)

        task = asyncio.create_task(work())
        try:
            while not done:
                events = await gathered.take()
                done = isinstance(events[-1], End)
                yield events
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def warm(self) -> bool:
        """Always True: its engine started before it could be asked."""
        return True

    async def state(self) -> EngineState:
        """How many requests run and wait."""
        return EngineState(self._name, None, self._places.running, self._places.waiting)

    async def check_health(self) -> None:
        """Raise if the engine is dead; Ray Serve calls this regularly and then starts another."""
        await self._server.check_health()

    async def _asked(self, asked: Asked, tell: Tell) -> End:
        try:
            asked = await self._prompts.ready(asked)
            fields = completion_fields(asked, self._window)
            with self._places.leaving(asked.id):
                tokens = len(asked.prompt.ids) if asked.prompt else 0
                tell(Begun(await self._places.taken(asked), 0.0, "resident", False, tokens))
                if asked.background:
                    return await self._places.kept(asked, lambda attempt: self._whole(asked, fields, attempt))
                return await self._said(asked, fields, tell)
        except TurnedAwayError as error:
            return error.why
        except Exception as error:  # a server's parts raise what they like
            message = f"the engine of {self._name!r} failed: {type(error).__name__}"
            return TurnedAway(503, "expert_lost", message, 1.0, again=True)

    async def _whole(self, asked: Asked, fields: Mapping[str, Any], attempt: int) -> End:
        """How a generation in the background ended. An earlier attempt need not be over for the server."""
        named = {**fields, "request_id": f"{asked.id}-{attempt}"} if attempt else fields
        return await self._said(asked, named, lambda event: None)

    async def _said(self, asked: Asked, fields: Mapping[str, Any], tell: Tell) -> End:
        """What the server gives; its pieces are told where they are streamed."""
        completion = _Completion(asked.query.sampling.top_logprobs or 0)
        parted = None if self._reader is None else Parted(self._reader, asked.query.sampling)
        try:
            answer = await self._server.completions(self._request(**fields))
        except ValueError as error:
            raise TurnedAwayError(TurnedAway(400, "invalid_request", first_line(error))) from error
        async with aclosing(answer):
            async for part in answer:
                for document in _documents(part):
                    delta = completion.take(document)
                    new_piece = piece(delta.text, delta.logprobs, parted)
                    if new_piece and asked.stream:
                        tell(new_piece)
        generation, last_piece = finished(completion.generation, parted)
        if last_piece and asked.stream:
            tell(last_piece)
        return ended(generation, asked.query.sampling.schema is not None)


class _Completion:
    """What a completion has said so far, without the whitespace at its ends, and the `top` likeliest tokens."""

    def __init__(self, top: int) -> None:
        self._text, self._top = Stripped(), top
        self._logprobs: list[TokenLogprob] = []
        self._reason, self._stop = "", None
        self._prompt = self._completion = 0

    def take(self, document: Mapping[str, Any]) -> Piece:
        """Note one part; what it adds. Raises `TurnedAwayError` for an error."""
        error = document.get("error")
        if error:
            raise TurnedAwayError(_refused(error))
        usage = document.get("usage") or {}
        self._prompt = int(usage.get("prompt_tokens") or self._prompt)
        self._completion = int(usage.get("completion_tokens") or self._completion)
        text, logprobs = "", list[TokenLogprob]()
        for choice in document.get("choices") or ():
            text += choice.get("text") or ""
            logprobs += _logprobs(choice, self._top)
            self._reason = choice.get("finish_reason") or self._reason
            self._stop = choice["stop_reason"] if isinstance(choice.get("stop_reason"), str) else self._stop
        self._logprobs += logprobs
        return Piece(self._text.feed(text), tuple(logprobs))

    @property
    def generation(self) -> Generation:
        """What it gave, at its end. Raises `TurnedAwayError` where it has none."""
        if not self._reason:
            raise TurnedAwayError(_BROKE_OFF)
        tokens = self._prompt, self._completion
        return Generation(self._text.whole, self._reason, *tokens, tuple(self._logprobs), self._stop)


def completion_fields(asked: Asked, window: int) -> dict[str, Any]:
    """A generation with a tokenised prompt as fields of OpenAI's completions; `window` is in tokens."""
    sampling, prompt = asked.query.sampling, asked.prompt.ids if asked.prompt else ()
    fields: dict[str, Any] = {
        "model": asked.expert,
        "request_id": asked.id,  # left open, the choices of one HTTP request would share theirs
        "prompt": list(prompt),
        **{name: getattr(sampling, name) for name in SAME_TO_VLLM},
        "max_tokens": (most := min(sampling.max_tokens, window - len(prompt))),
        "min_tokens": min(sampling.min_tokens, most),
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias} or None,
        "logprobs": sampling.top_logprobs,
        "stream": asked.stream,
    }
    if asked.stream:
        fields["stream_options"] = {"include_usage": True}
    return fields | format_fields(sampling)


def _logprobs(choice: Mapping[str, Any], top: int) -> list[TokenLogprob]:
    """The tokens of a choice that are text; one that ended it is none."""
    logprobs = choice.get("logprobs") or {}
    tokens, values, alternatives = (logprobs.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    text_tokens = [
        TokenLogprob(token, values[n], tuple(sorted((alternatives[n] or {}).items(), key=lambda each: -each[1])[:top]))
        for n, token in enumerate(tokens)
    ]
    by_token = choice.get("finish_reason") == "stop" and not isinstance(choice.get("stop_reason"), str)
    return text_tokens[:-1] if by_token else text_tokens


def _documents(part: Any) -> Iterator[Mapping[str, Any]]:
    """The JSON documents in one part of an answer. Raises `ValueError` for what is none."""
    if isinstance(part, list):
        for each in part:
            yield from _documents(each)
    elif isinstance(part, str):
        for line in part.split("\n"):
            data = line.removeprefix("data:").strip()
            if line.startswith("data:") and data != "[DONE]":
                yield json.loads(data)
    else:
        yield part.model_dump()


def _refused(error: Mapping[str, Any]) -> TurnedAway:
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 500:
        message = str(error.get("message") or "").strip() or "the engine did not take it"
        return TurnedAway(400, "invalid_request", message.splitlines()[0])
    return TurnedAway(503, "expert_lost", "the engine failed while it answered", 1.0, again=True)
