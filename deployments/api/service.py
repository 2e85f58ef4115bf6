"""What the paths do: check caller and request, have it answered, and report how it went."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from symmoe.build import fingerprint
from symmoe.config import Pool
from symmoe.errors import CheckpointError, StoreError
from symmoe.limits import LARGE_BODIES, STORE_REQUEST_SECONDS
from symmoe.policy import Model, Policy, catalogue, known_model, policy_for
from symmoe.types import Candidate, Profiles, Query, Sampling
from symmoe.wire.answers import ChatWriter, Writer
from symmoe.wire.chat import ChatRequest, Question, SymmoeOptions, fitting
from symmoe.wire.sampling import SEEDS, header_of_ignored, refuse_ignored

from ..access.breaker import Breaker
from ..access.cache import AnswerCache
from ..access.keys import NOBODY, Caller, Keys, KeyWatch, key_in
from ..access.limits import Limits
from ..access.usage import EMBEDDING, Usage, Used, used_of
from ..errors import ApiError
from ..events import EngineState, TurnedAway, TurnedAwayError
from ..lifecycle.following import following
from ..lifecycle.record_history import RecordHistory
from ..orchestrator import Again, Orchestrator
from ..order import Order, Report
from ..pictures import Fetcher, Pictures
from ..settings import Settings
from ..storage import Storage
from ..telemetry.note import Note
from ..telemetry.telemetry import Telemetry
from ..telemetry.trace_store import kept_traces
from .answer_headers import explanation, headers
from .answers import Answers, OnAnswer
from .body import Body, read_body
from .completions import all_finished, facts_of
from .counting import Counting
from .metrics import Metrics
from .open_requests import Open

_FRESH = 1.0
_LOOK = 0.05


class Service:
    """What the paths share: pool, orchestrator, keys, limits, usage and metrics of one ingress."""

    def __init__(
        self,
        pool: Pool,
        orchestrator: Orchestrator,
        keys: Keys,
        settings: Settings,
        storage: Storage,
    ) -> None:
        self.metrics = Metrics()
        most_of_one = max(1, round(settings.most_open * settings.key_share))
        self.open = Open(settings.most_open, most_of_one, self.metrics.opened)
        self.large = Open(LARGE_BODIES, max(1, round(LARGE_BODIES * settings.key_share)))
        self._pictures = Pictures(Fetcher() if settings.image_urls else None)
        self.lifecycle, self.telemetry = orchestrator.lifecycle, Telemetry.of(settings)
        self.lifecycle.quarantined = self.metrics.quarantined
        self.lifecycle.roster.tell(self._renew)
        self.models = catalogue(pool)
        self._pool, self._orchestrator = pool, orchestrator
        self._keys, self.settings, self.storage = keys, settings, storage
        self._watch = KeyWatch(keys)
        breaker = Breaker(storage)
        self.limits = Limits(breaker, self.metrics.unchecked)
        counted = settings.usage_seconds > 0 and (keys.required or self.lifecycle.remembers)
        self.usage = Usage(breaker if counted else None, settings.usage_seconds, self.metrics.unchecked)
        self.patient = Breaker(storage, STORE_REQUEST_SECONDS)
        self.telemetry.kept = kept_traces(settings, Breaker(storage, STORE_REQUEST_SECONDS))
        remembered = self.patient if self.lifecycle.remembers else None
        self.record_history = RecordHistory(pool.name, self.lifecycle.roster, lambda: self.records, remembered)
        self._answers = Answers(orchestrator, self._cache(breaker), self.metrics)
        self._counting = Counting(pool)
        self._own, self._attempts = secrets.token_hex(4), count()
        self._created = int(time.time())
        self._over: dict[str, float] = {}
        self._routable = False
        self._engines: list[EngineState] = []
        self._engines_at = -_FRESH

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests without a key are refused."""
        return self._keys.required

    @property
    def currency(self) -> str:
        """The currency of prices, for display."""
        return self._pool.currency

    async def known(self, key: str | None, note: Note) -> Caller:
        """The caller, by a request's key. Raises `ApiError`: 401 for a bad key, 503 if it cannot be checked."""
        try:
            caller = await self._keys.caller(key)
        except StoreError as error:
            self.metrics.refused("store")
            raise ApiError(503, "store_unavailable", "keys cannot be checked just now", retry_after=1) from error
        if caller is None:
            self.metrics.refused("key")
            message = "no API key, or one that is unknown, expired or revoked; send it as `Authorization: Bearer KEY`"
            raise ApiError(401, "invalid_api_key", message)
        note.key = caller.id
        return caller

    async def caller(self, request: HttpRequest) -> Caller:
        """The caller, as the middleware found it before it let the request in."""
        caller: Caller = request.state.caller
        return caller

    async def admitted(self, caller: Caller) -> dict[str, str]:
        """Count a request against the caller's limits and return the headers about these.

        Raises `ApiError` (429) if a limit is reached.
        """
        status = await self.limits.admit(caller)
        level = status.exceeded
        if level is not None:
            self.metrics.refused(level.what)
            message = f"this key may use {level.limit} {level.what} per minute; ask again in {level.wait:.1f} s"
            raise ApiError(429, "rate_limit_exceeded", message, retry_after=level.wait, headers=status.headers)
        return status.headers

    def model(self, name: str) -> Model:
        """The model of that name. Raises `RequestError` if there is none."""
        return known_model(self.models, name)

    def described(self, name: str) -> dict[str, Any]:
        """A model in OpenAI's shape."""
        model = self.models[name]
        shape = {"id": name, "object": "model", "created": self._created, "owned_by": "symmoe"}
        document = {**shape, "parent": model.parent, "description": model.description}
        price = self.lifecycle.roster.pool.prices.get(name)
        return document if price is None else {**document, "pricing": {**price.model_dump(), "currency": self.currency}}

    async def readiness(self) -> str:
        """`ready`, `starting` or `stopping`."""
        if self.open.draining:
            return "stopping"
        await self.routable()
        return "ready" if await self.lifecycle.experts.warm() else "starting"

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """During the block, follow the store and the pool file for changes of the experts."""
        settings = self.settings
        file = None if settings.follow is None else Path(settings.follow)
        followed = following(file, self._pool, self.lifecycle, settings.weights_folder)
        async with self.lifecycle.following_store(), self.record_history.noting(), followed:
            yield

    async def begun(self) -> None:
        """Wait until questions can be routed and it is known which experts may be asked."""
        await self.routable()
        while not self.lifecycle.roster.known:
            await asyncio.sleep(_LOOK)

    async def routable(self) -> None:
        """Load what routing needs, the first time."""
        if not self._routable:
            await self._orchestrator.router.warm()
            self._routable = True

    async def scraped(self) -> bytes:
        """The page of metrics, with the present state of experts and engines, in Prometheus' text format."""
        roster = self.lifecycle.roster
        states = {name: roster.state(name) for name in roster.pool.names}
        self.metrics.looked(states, self.lifecycle.experts.open, await self.engines())
        return self.metrics.text()

    async def engines(self) -> list[EngineState]:
        """The state of every engine, at most a second old; engines are asked at most once a second."""
        now = time.monotonic()
        if now - self._engines_at >= _FRESH:
            self._engines_at = now
            self._engines = await self.lifecycle.experts.engines()
        return self._engines

    async def opened(self, http: HttpRequest, body: type[Body]) -> tuple[Caller, dict[str, str], Body]:
        """The caller, the headers about its limits, and the body, which is read only after these were checked.

        Raises `ApiError` if a limit or budget is reached, and what `read_body` raises.
        """
        caller = await self.caller(http)
        limit_headers = await self.admitted(caller)  # before the body, which may keep the service waiting
        await self._within_budget(caller)
        return caller, limit_headers, await read_body(http, body, *self._sizes(http, caller))

    def _sizes(self, http: HttpRequest, caller: Caller) -> tuple[int, int, Callable[[], None]]:
        """The size that a body usually has at most, the size with images, and what is called for one that is larger."""
        usual, seen = self.settings.most_bytes, any(each.images for each in self.lifecycle.roster.pool.experts)

        def enter() -> None:
            self.large.enter("" if caller.id == NOBODY else caller.id)
            http.state.large = True

        return usual, max(usual, self.settings.image_bytes) if seen else usual, enter

    async def chat(self, http: HttpRequest) -> Response:
        """An answer, whole or streamed."""
        caller, response_headers, body = await self.opened(http, ChatRequest)
        response_headers |= ignored_header(body.ignored, self.settings.strict)
        ident = secrets.token_hex(12)  # the request's own name is the client's, and two may share it
        counted = body.stream_options is not None and body.stream_options.include_usage
        return await self.answer(http, caller, body, ident, ChatWriter(ident, body.model, counted), response_headers)

    async def answer(
        self,
        http: HttpRequest,
        caller: Caller,
        body: ChatRequest,
        ident: str,
        writer: Writer,
        response_headers: Mapping[str, str],
        raw: bool = False,
        on_answer: OnAnswer | None = None,
    ) -> Response:
        """The answer to a chat request in the wire format of `writer`, with `response_headers` among its headers.

        A `raw` request is text to continue, not a chat. `on_answer` is called with the answer. Raises `RequestError`.
        """
        body.check(self.settings.most_choices)
        order, note = self._order(body, ident, caller, raw), noted(http)
        order = replace(order, query=await self._pictures.settled(order.query))
        note.model, note.query = body.model, order.query
        repeatable = (order.query.sampling.temperature == 0 or body.seed is not None) and not _uncached(http)
        charge = partial(self._charge, caller)
        watched = partial(self._watch.watched, key_in(http.headers))
        cacheable = repeatable and self._refusal(order.policy) is None  # else it is given what the expert is blamed for
        return await self._answers.answer(order, writer, response_headers, charge, cacheable, note, watched, on_answer)

    async def several(
        self,
        http: HttpRequest,
        caller: Caller,
        bodies: Sequence[ChatRequest],
        ident: str,
        writer: Writer,
        response_headers: Mapping[str, str],
    ) -> Response:
        """The answers to several prompts of one request, which count as one. Raises `RequestError`."""
        orders = [self._order(body, f"{ident}-{n}", caller, True) for n, body in enumerate(bodies)]
        note = noted(http)
        note.model, note.query = bodies[0].model, orders[0].query
        uncounted = iter((1,))

        async def charge(report: Report | None) -> None:
            await self._charge(caller, report, next(uncounted, 0))

        return await self._answers.several(orders, writer, response_headers, charge, note)

    @property
    def pool(self) -> Pool:
        """The pool as it is now."""
        return self.lifecycle.roster.pool

    @property
    def records(self) -> Profiles:
        """The experts' records, read on first use, which may block."""
        return self._orchestrator.router.records

    async def again(self, query: Query, policy: Policy, recorded: Sequence[Candidate], rule: str | None) -> Again:
        """What a policy would have made of a question, given `recorded` answers. Raises `TurnedAwayError`."""
        return await self._orchestrator.again(query, policy, recorded, rule)

    @property
    def embedder(self) -> str:
        """The name of the embedder that the pool routes with."""
        return self._pool.routing.embedder

    async def embedded(
        self, caller: Caller, texts: Sequence[str], dimensions: int | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """The vectors of a caller's texts and their tokens, which are charged.

        Raises `ApiError`, at no charge if vectors of other `dimensions` are wanted.
        """
        embed = self._orchestrator.router.embed
        try:
            size = None if dimensions is None else (await embed(["1"]))[0].shape[1]
            if size != dimensions:
                message = f"dimensions: the embedder's vectors have {size}, and cannot be made shorter"
                raise ApiError(400, "invalid_value", message, "dimensions")
            vectors, tokens = await embed(texts)
        except CheckpointError as error:
            raise ApiError(
                503, "embedder_unavailable", "the pool's embedder cannot be loaded", retry_after=30
            ) from error
        self.usage.note(caller.id, [Used(EMBEDDING, tokens)])
        await self.limits.charge(caller, tokens)
        return vectors, tokens

    async def tokens(self, query: Query, expert: str | None) -> int:
        """The tokens of a conversation for an expert, None for the pool's first. Raises `ApiError`."""
        return await asyncio.to_thread(self._counting.tokens, query, expert)

    async def route(self, http: HttpRequest) -> Response:
        """The response to `/v1/route`: who would answer, and why. Nothing is generated. Raises `RequestError`."""
        caller = await self.caller(http)
        limit_headers = await self.admitted(caller)
        body = await read_body(http, Question, self.settings.most_bytes)
        model = self.model(body.model)
        if model.expert is not None:
            raise ApiError(400, "invalid_value", "a named expert answers itself: there is nothing to route", "model")
        query, note = body.query(Sampling(1)), noted(http)
        policy = fitting(self._policy(model, body.symmoe), self.pool, query)
        routed = await self._orchestrator.router.route(query, policy, True)
        report = Report(routed, began=time.perf_counter() - routed.seconds)
        note.model, note.query, note.report = body.model, query, report
        facts = explanation(report)
        names = ("path", "skills", "facets", "shares", "recruited", "asked", "explanation")
        document = {"object": "symmoe.route", "model": model.name, **{name: facts[name] for name in names}}
        return JSONResponse(document, headers={**headers(report), **limit_headers})

    async def line_admitted(self, owner: str) -> float:
        """Count a batch's line against its key's limits. Returns the seconds to wait before asking it, 0 for none.

        Until then the limits are not checked again. For a revoked key it is 0: asking then fails.
        """
        try:
            caller = await self._keys.named(owner)
        except StoreError:
            return 1.0
        delay = self._over.pop(owner, 0.0) - time.monotonic()
        if caller is None:
            return 0.0
        if delay <= 0:
            try:
                await self.admitted(caller)
            except ApiError as error:
                delay = error.retry_after or 1.0
        if delay > 0:
            self._over[owner] = time.monotonic() + delay
        return max(0.0, delay)

    async def complete(self, body: ChatRequest, note: Note, share: str, seconds: float) -> dict[str, Any]:
        """Answer a batch's line within so many seconds: a chat completion as JSON.

        It waits behind all online requests, and takes turns with the lines of other shares. Its tokens are charged to
        the key in its `note`, in which the outcome is recorded, too. Raises `ApiError`, `StoreError` and
        `TurnedAwayError`.
        """
        note.model = body.model if body.model in self.models else ""
        body.check(self.settings.most_choices)
        ignored_header(body.ignored, self.settings.strict)
        caller = await self._keys.named(note.key)
        if caller is None:
            raise ApiError(401, "invalid_api_key", "the key that made this batch is expired or revoked")
        await self._within_budget(caller)
        attempt = f"{note.id}-{self._own}-{next(self._attempts)}"  # an earlier one may not be over yet
        order = replace(self._order(body, attempt, Caller(share)), deadline=seconds, patience=seconds, background=True)
        order = replace(order, query=await self._pictures.settled(order.query))
        note.query = order.query
        request = await self._orchestrator.begin(order)
        note.report = request.report
        try:
            finished = await all_finished(request)
            return ChatWriter(note.id, body.model).whole(finished, facts_of(request.report, order))
        finally:
            await request.close()
            self.metrics.reported(request.report)
            await self._charge(caller, request.report)

    async def _charge(self, caller: Caller, report: Report | None, requests: int = 1) -> None:
        """Count what an answer took; None for one from the cache."""
        self.usage.note(caller.id, () if report is None else used_of(report), requests)
        if report is not None:
            await self.limits.charge(caller, report.spent_tokens)

    async def _within_budget(self, caller: Caller) -> None:
        """Raise `ApiError` where a caller has spent what its key may spend."""
        spent = await self.usage.spent(caller)
        if spent is None or caller.budget is None or spent < caller.budget:
            return
        self.metrics.refused("budget")
        when = {"day": " a day", "month": " a month", "ever": ""}[caller.budget_per]
        money = f"{self.currency} {caller.budget:g}".strip()
        message = f"this key may spend {money}{when}, and has; its usage is at /v1/usage"
        raise ApiError(429, "insufficient_quota", message, headers={"x-should-retry": "false"})

    def _cache(self, breaker: Breaker) -> AnswerCache | None:
        settings = self.settings
        if settings.cache_seconds <= 0:
            return None
        return AnswerCache(breaker, partial(fingerprint, self._pool), settings.cache_seconds, settings.cache_entries)

    def _order(self, body: ChatRequest, ident: str, caller: Caller, raw: bool = False) -> Order:
        model, options = self.model(body.model), body.symmoe
        sampling = replace(_drawn(body.sampling(self._pool.sampling)), raw=raw)
        query = body.query(sampling)
        policy = fitting(self._policy(model, options), self.pool, query)
        refusal = self._refusal(policy)
        if refusal is not None and not policy.fallbacks:
            raise TurnedAwayError(refusal)
        return Order(
            id=ident,
            query=query,
            key=caller.id,
            policy=policy,
            n=body.n or 1,
            stream=bool(body.stream),
            explain=options.explain,
            deadline=min(options.deadline or self.settings.deadline, self.settings.deadline),
            newcomers=self.lifecycle.roster.fingerprint,
            own_deadline=options.deadline is not None,
            costed=body.usage is not None and body.usage.include,
        )

    def _policy(self, model: Model, options: SymmoeOptions) -> Policy:
        policy = policy_for(self._pool, model, options.k, options.budget, options.aggregate, options.quality)
        return policy.excluding(self.lifecycle.roster.without)

    def _refusal(self, policy: Policy) -> TurnedAway | None:
        """Why the expert that a policy names, if it does, may not be asked."""
        return None if policy.expert is None else self.lifecycle.roster.refusal(policy.expert)

    def _renew(self) -> None:
        self.models = catalogue(self.lifecycle.roster.pool)


def _drawn(sampling: Sampling) -> Sampling:
    """A draw that came without a seed is given one: no two of its choices are equal."""
    if sampling.seed is not None or sampling.temperature == 0:
        return sampling
    return replace(sampling, seed=secrets.randbelow(SEEDS))


def ignored_header(ignored: tuple[str, ...], strict: bool) -> dict[str, str]:
    """The header that names a request's ignored fields. With `strict` raises `RequestError` instead."""
    if strict:
        refuse_ignored(ignored)
    return header_of_ignored(ignored)


def noted(http: HttpRequest) -> Note:
    """The note that the middleware made for a request."""
    note: Note = http.state.note
    return note


def _uncached(http: HttpRequest) -> bool:
    """Whether the client wants an answer of its own, and that it is not kept."""
    wishes = {wish.strip().lower() for wish in http.headers.get("cache-control", "").split(",")}
    return bool(wishes & {"no-cache", "no-store"})
