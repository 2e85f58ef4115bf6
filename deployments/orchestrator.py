"""The course of one request: route, ask experts, score, aggregate, and pass its pieces on as they come."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from symmoe.answering import (
    Ask,
    Done,
    Judging,
    PartialReplies,
    Recruit,
    Reply,
    Routed,
    Weigh,
    Weighed,
    advance,
    answering,
    routed_as_before,
    routed_by_name,
    writable,
)
from symmoe.build import Assembly
from symmoe.config import PriceConfig
from symmoe.executor.in_process import candidates
from symmoe.planning.grouping import plan
from symmoe.policy import Policy
from symmoe.tools import CallPart, Reading, before_calls, calls_in
from symmoe.types import Assignment, Call, Candidate, Generation, Query, Refusal, Sampling, TokenLogprob, Trace

from .access.breaker import Stored
from .events import NOT_TAKEN, Asked, Begun, Finished, Piece, TurnedAway, TurnedAwayError
from .experts import ENDLESS, Experts
from .hedging import Calls, Latencies, ReplyTask
from .lifecycle.lifecycle import Lifecycle
from .order import Failed, Order, Report, Share, Stage, Unfinished
from .routing import Router
from .scoring import LocalScorer, Scoring
from .settings import Settings

_FREE = PriceConfig()
_LATER = 1.0
"""Seconds after which a request whose deadline is over is certain to have been told so."""

Given = tuple[int, Piece | Finished]
Route = Callable[[Policy], Awaitable[Routed]]
"""Says who answers under a policy. Raises `TurnedAwayError`."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What requests are answered with: the experts, the scorer of their candidates, and the aggregation.

    `most_tokens` limits what some experts write; `prices` are those of the experts that have one. Experts `apart` have
    engines of their own: when these are lost or busy, others are not. Waves run in parallel for a request with a
    deadline of its own or, with `hedges`, any deadline.
    """

    experts: Experts
    scorer: Scoring
    judging: Judging
    most_tokens: Callable[[], Mapping[str, int]]
    prices: Callable[[], Mapping[str, PriceConfig]]
    apart: frozenset[str] = frozenset()
    hedges: bool = False
    latencies: Latencies = field(default_factory=Latencies)


class Request:
    """One request, answered in a task of its own, whose pieces `next` returns. Always `close` it.

    Its deadline `ends` by the clock of the event loop. `route` finds other experts if those asked failed before any
    text was given, and `others` says whether there are any.
    """

    def __init__(
        self,
        order: Order,
        report: Report,
        resources: Resources,
        patience: float,
        ends: float,
        route: Route,
        others: Callable[[Policy], bool],
    ) -> None:
        self.order, self.report = order, report
        self._resources, self._patience, self._route = resources, patience, route
        self._others, self._elsewhere = others, others(order.policy)
        hedges = not order.background and (order.own_deadline or resources.hedges)
        self._limit, self._ends = ends, ends if hedges else None
        self._tasks: list[asyncio.Task[None]] = []
        self._given: asyncio.Queue[Given | Exception | None] = asyncio.Queue()
        self._gave: set[int] = set()
        self._routed: dict[Policy, asyncio.Future[Routed | Refusal]] = {}
        report.began = time.perf_counter() - report.routed.seconds
        self._task = asyncio.create_task(self._answer_in_time())

    async def next(self) -> Given | None:
        """The next piece or end of a choice, with the choice's number; None when all are over. For one reader.

        Raises `TurnedAwayError` if the request fails.
        """
        item = await self._given.get()
        if isinstance(item, Exception):
            raise item
        return item

    def end(self, why: TurnedAway) -> None:
        """Give the request up: from now on `next` raises a `TurnedAwayError` with this reason."""
        while not self._given.empty():
            self._given.get_nowait()
        self._given.put_nowait(TurnedAwayError(why))
        self._task.cancel()

    async def close(self) -> None:
        """Cancel what is not finished."""
        self._task.cancel()
        await asyncio.gather(self._task, *self._tasks, return_exceptions=True)

    async def _answer_in_time(self) -> None:
        try:
            async with asyncio.timeout_at(self._limit):
                await asyncio.gather(*self._choices())
        except TimeoutError:
            self._given.put_nowait(TurnedAwayError(_overdue(self.order)))
        except Exception as error:
            self._given.put_nowait(error)
        finally:
            for task in self._tasks:
                task.cancel()
            self.report.total = self.report.now
            self._given.put_nowait(None)

    def _choices(self) -> list[asyncio.Task[None]]:
        """Every choice, begun. Greedy ones are equal: they are generated once and given to all."""
        drawn = self.order.query.sampling.temperature > 0
        groups = [(n,) for n in range(self.order.n)] if drawn else [tuple(range(self.order.n))]
        self._tasks = [asyncio.create_task(self._choice(group)) for group in groups]
        return self._tasks

    async def _choice(self, choices: Sequence[int]) -> None:
        """What `answering` makes of the query; what takes thought is done in threads."""
        query, pressed = self._query(choices[0]), self._ends is not None
        steps = answering(query, self.order.policy, self._resources.judging, pressed=pressed)
        calls = Calls(partial(self._start, choices), self._resources.latencies.usual, self._ends)
        need, weighed_at = advance(steps), None
        try:
            while not isinstance(need, Done):
                calls.keep(need.recruitment.assignments if isinstance(need, Ask) else ())
                result: Routed | Refusal | Sequence[Reply] | PartialReplies | Weighed
                if isinstance(need, Recruit):
                    result = await self._recruited(need, choices)
                elif isinstance(need, Ask):
                    result = await calls.replies(need)
                else:
                    result, weighed_at = await self._weighed(need), time.perf_counter()
                thoughtless = isinstance(need, Recruit) or (isinstance(need, Ask) and need.final)
                need = advance(steps, result) if thoughtless else await asyncio.to_thread(advance, steps, result)
        finally:
            await calls.close()
        if weighed_at is not None:
            self._note_stage("aggregate", weighed_at, time.perf_counter() - weighed_at, False)
        self._end(need.result, choices)

    def _end(self, result: Trace | Refusal, choices: Sequence[int]) -> None:
        if isinstance(result, Refusal):
            raise TurnedAwayError(TurnedAway(result.status, result.code, result.message, result.retry_after))
        self.report.traces.append(result)
        generation = result.given
        if result.way == "aggregated":
            self._note_first_token()
            if generation.reasoning:
                self._give(choices, Piece("", reasoning=generation.reasoning))
            self._give(
                choices,
                Piece(before_calls(generation.text) if generation.calls else generation.text, generation.logprobs),
            )
        self._give(choices, Finished(generation))

    def _query(self, number: int) -> Query:
        """The query of one choice, with a seed of its own where one was given."""
        query = self.order.query
        seed = None if query.sampling.seed is None else query.sampling.seed + number
        return replace(query, id=str(number), sampling=replace(query.sampling, seed=seed))

    async def _recruited(self, need: Recruit, choices: Sequence[int]) -> Routed | Refusal:
        """Who answers: as was decided when the request began or, once for all choices, in place of who cannot."""
        policy = need.policy
        if policy == self.order.policy:
            return self.report.routed
        if self._gave.intersection(choices):
            return Refusal(
                need.query.id, "expert_lost", "some of the answer was given already: nobody can begin anew", 503
            )
        if policy not in self._routed:
            self._routed[policy] = asyncio.ensure_future(self._rerouted(policy))
        return await asyncio.shield(self._routed[policy])

    async def _rerouted(self, policy: Policy) -> Routed | Refusal:
        try:
            routed = await self._route(policy)
        except TurnedAwayError as error:
            return _refusal("", error.why)
        self.report.routed = routed
        self.report.rerouted += 1
        self._elsewhere = self._others(policy)
        return routed

    def _start(
        self, choices: Sequence[int], need: Ask, assignments: Sequence[Assignment]
    ) -> dict[Assignment, ReplyTask]:
        """Have experts asked; what is final of what they write goes to `choices` as it comes."""
        models = {each.expert: "" for each in assignments}
        part = replace(need.recruitment, assignments=tuple(assignments))
        steps = plan([need.query], [part], models, most_tokens=self._resources.most_tokens()).steps
        streamed_choices = choices if need.final else ()
        tasks = {
            call: asyncio.create_task(self._called(call, streamed_choices)) for step in steps for call in step.calls
        }
        return {assignment: task for call, task in tasks.items() for assignment in call.serves}

    async def _called(self, call: Call, choices: Sequence[int]) -> Mapping[Assignment, Reply]:
        """What one call gives to every assignment that it serves; its pieces go to `choices` as they come."""
        asked, sampling = self._asked(call, bool(choices)), call.query.sampling
        unfinished = Unfinished(call.expert, self._resources.prices().get(call.expert, _FREE))
        self.report.unfinished.append(unfinished)
        began, reading, end = self.report.now, _Reading(sampling, call.expert) if sampling.tools else None, None

        def tell(event: Begun | Piece) -> None:
            if isinstance(event, Begun):
                self.report.begun.append(event)
                unfinished.begun = event
            else:
                unfinished.completion_tokens += 1
                self._pass_on(event, reading, choices)

        try:
            end = await self._resources.experts.ask(asked, tell)
        finally:
            self._resources.latencies.note(call.expert, self.report.now - began, isinstance(end, Finished))
        begun = unfinished.begun
        if isinstance(end, TurnedAway) or begun is None:
            return self._refused(call, end if isinstance(end, TurnedAway) else ENDLESS, unfinished)
        generation = end.generation
        if reading is not None and (last_piece := reading.rest(generation)) is not None:
            self._give(choices, last_piece)
        cost = unfinished.price.cost(generation.prompt_tokens, generation.completion_tokens)
        self.report.unfinished.remove(unfinished)
        self.report.shares.append(Share(call.expert, begun, generation, began, self.report.now, cost))
        return dict(zip(call.serves, map(writable, candidates(call, generation, begun.lane)), strict=True))

    def _asked(self, call: Call, streamed: bool) -> Asked:
        ident = f"{self.order.id}-{call.query.id}-{call.expert}-{call.serves[0].slot}"
        return Asked(
            *(ident, call.expert, call.query, self.order.key, self._patience, self.order.stream and streamed),
            background=self.order.background,
            elsewhere=self._elsewhere,
        )

    def _refused(self, call: Call, why: TurnedAway, unfinished: Unfinished) -> dict[Assignment, Reply]:
        """The refusal of a call for every assignment that it serves, noted."""
        self.report.failures.append(Failed(call.expert, why.code))
        self.report.refused += why.spent
        if why.spent:
            self.report.unfinished.remove(unfinished)
        refusal = _refusal(call.serves[0].query_id, why)
        apart = call.expert in self._resources.apart and (not refusal.by_query or why.code == NOT_TAKEN)
        return dict.fromkeys(call.serves, replace(refusal, elsewhere=apart))

    async def _weighed(self, need: Weigh) -> Weighed:
        began = time.perf_counter()
        weighed = await self._resources.scorer.weigh(need.query, need.candidates, need.recruitment)
        self._note_stage("score", began, time.perf_counter() - began, bool(weighed.trouble))
        return weighed

    def _pass_on(self, piece: Piece, reading: _Reading | None, choices: Sequence[int]) -> None:
        """Give what an expert wrote; where it may call tools, as far as it is known to be words or a call."""
        self._note_first_token()
        if piece.reasoning:
            self._give(choices, Piece("", reasoning=piece.reasoning))
        if reading is not None:
            for part in reading.feed(piece):
                self._give(choices, part)
        elif piece.text or piece.logprobs:
            self._give(choices, replace(piece, reasoning=""))

    def _give(self, choices: Sequence[int], event: Piece | Finished) -> None:
        self._gave.update(choices)
        for number in choices:
            self._given.put_nowait((number, event))

    def _note_first_token(self) -> None:
        if self.report.first_token is None:
            self.report.first_token = self.report.now

    def _note_stage(self, name: str, began: float, seconds: float, failed: bool) -> None:
        self.report.stages.append(Stage(name, began - self.report.began, seconds, failed))


class _Reading:
    """Reads what an expert that may call tools writes as it comes: words with their tokens, and calls.

    Tokens wait until their words are known to be such, those of reasoning do not. They are matched to words by their
    letters, spaces aside: the space at a text's ends is not passed on.
    """

    def __init__(self, sampling: Sampling, expert: str) -> None:
        self._reading, self._tools, self._expert = Reading(sampling.tools, sampling.most_calls), sampling.tools, expert
        self._tokens, self._ahead, self._thinks = deque[TokenLogprob](), 0, False

    def feed(self, piece: Piece) -> Iterator[Piece]:
        """What can be passed on now."""
        self._tokens.extend(piece.logprobs)
        self._thinks = bool(piece.reasoning) or (self._thinks and not piece.text)
        if self._thinks:  # these tokens, and those of the marks around the reasoning, are of no words
            if self._tokens:
                yield Piece("", tuple(self._tokens))
            self._tokens.clear()
            self._ahead = _letters(piece.text)
        for part in self._reading.feed(piece.text):
            if isinstance(part, CallPart):
                yield Piece("", call=replace(part, expert=self._expert))
            else:
                yield Piece(part, tuple(self._tokens_of(part)))

    def rest(self, generation: Generation) -> Piece | None:
        """What was held back of a generation that calls nothing."""
        if generation.calls or calls_in(generation.text, self._tools):
            return None
        text, tokens = self._reading.rest, tuple(self._tokens)
        return Piece(text, tokens) if text or tokens else None

    def _tokens_of(self, words: str) -> Iterator[TokenLogprob]:
        """Tokens that begin within these words. `_ahead` are the letters that tokens given have beyond words given."""
        self._ahead -= _letters(words)
        while self._tokens and (self._ahead < 0 or not _letters(self._tokens[0].token)):
            self._ahead += _letters(self._tokens[0].token)
            yield self._tokens.popleft()


def _letters(text: str) -> int:
    return len("".join(text.split()))


def _overdue(order: Order) -> TurnedAway:
    """Why an order is given up whose deadline is over: what the client asked for, or the service's fault."""
    message = f"no answer within {order.deadline:g} s"
    if order.own_deadline:
        return TurnedAway(408, "deadline_exceeded", message)
    return TurnedAway(503, "deadline_exceeded", message, 1.0)


def _refusal(query: str, why: TurnedAway) -> Refusal:
    return Refusal(query, why.code, why.message, why.spent, why.status, why.retry_after)


@dataclass(frozen=True, slots=True)
class Again:
    """What recorded candidates would have made of a question, and which experts' are `missing` on record."""

    routed: Routed
    result: Trace | Refusal
    missing: tuple[str, ...]


class Orchestrator:
    """Answers orders with a pool's records and the replicas that run its experts.

    `stored` keeps operators' decisions about experts; without it they are lost with this process. Candidates are
    weighed by `scorer`, or without one in this process.
    """

    def __init__(
        self,
        assembly: Assembly,
        experts: Experts,
        settings: Settings,
        stored: Stored | None = None,
        scorer: Scoring | None = None,
    ) -> None:
        self.lifecycle = Lifecycle(assembly.pool, experts, settings, stored)
        self.router = Router(assembly, self.lifecycle.roster)
        self._settings = settings
        scoring, bounds = scorer or LocalScorer(assembly.scorer), lambda: assembly.pool.most_tokens
        apart = frozenset(each.name for each in assembly.pool.experts if each.remote or each.dedicated)
        self._resources = Resources(
            *(self.lifecycle.experts, scoring, assembly.judging(), bounds, self._prices, apart),
            hedges=assembly.pool.aggregation.hedge,
        )

    def _prices(self) -> Mapping[str, PriceConfig]:
        return self.lifecycle.roster.pool.prices

    async def again(
        self, query: Query, policy: Policy, recorded: Sequence[Candidate], rule: str | None = None
    ) -> Again:
        """What a policy, or another recruiting `rule`, would have made of a question, without asking any expert.

        Raises `TurnedAwayError` if nobody could be recruited.
        """
        policy = policy.excluding(self.lifecycle.roster.without)
        routed = routed_by_name(query, policy.expert) if policy.expert else await self.router.under(query, policy, rule)
        by_slot = {(each.expert, each.slot): each for each in recorded}
        missing: list[str] = []

        def reply(assignment: Assignment) -> Reply:
            candidate = by_slot.get((assignment.expert, assignment.slot))
            if candidate is not None:
                return candidate
            missing.append(assignment.expert)
            return Refusal(query.id, "not_recorded", f"no answer of {assignment.expert!r} is on record", status=503)

        steps = answering(query, policy, self._resources.judging)
        need = advance(steps)
        while not isinstance(need, Done):
            result: Routed | Sequence[Reply] | Weighed
            if isinstance(need, Recruit):
                result = routed
            elif isinstance(need, Ask):
                result = [reply(assignment) for assignment in need.recruitment.assignments]
            else:
                result = await self._resources.scorer.weigh(need.query, need.candidates, need.recruitment)
            need = await asyncio.to_thread(advance, steps, result)
        return Again(routed, need.result, tuple(dict.fromkeys(missing)))

    async def begin(self, order: Order) -> Request:
        """Route an order and begin to answer it.

        Raises `TurnedAwayError` if nobody can be recruited, or that takes longer than the order's deadline.
        """
        ends = asyncio.get_running_loop().time() + order.deadline

        async def route(policy: Policy) -> Routed:
            if policy.expert is not None:  # whether it may be asked is seen when it is
                return routed_by_name(order.query, policy.expert)
            without = policy.excluding(self.lifecycle.roster.without)
            return await self.router.route(order.query, without, order.explain, order.background)

        policy = order.policy
        stays = policy.stays if policy.expert is None else None
        try:
            async with asyncio.timeout_at(ends):
                routed = await route(policy) if stays is None else routed_as_before(order.query, stays)
        except TimeoutError:
            raise TurnedAwayError(_overdue(order)) from None
        longest = self._settings.longest_wait if order.patience is None else order.patience
        patience = min(longest, order.deadline + _LATER)
        return Request(order, Report(routed), self._resources, patience, ends, route, self._others)

    def _others(self, policy: Policy) -> bool:
        """Whether somebody else may be asked under a policy where those who are cannot be had."""
        if policy.expert is not None:
            return bool(policy.fallbacks)
        return len(set(self.lifecycle.roster.pool.names).difference(policy.without)) > 1
