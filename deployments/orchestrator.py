"""One request on its way: route, ask, gate, aggregate, and give its pieces as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from symmoe.build import Assembly
from symmoe.executor.candidates import LOST as NO_ANSWER
from symmoe.executor.candidates import candidates
from symmoe.planning.grouping import plan
from symmoe.types import Call, Candidate, Generation, Query

from .access.breaker import Stored
from .events import Asked, Begun, Finished, Piece, TurnedAway
from .experts import Experts, TurnedAwayError, asking
from .gating import Gating
from .judging import Jury
from .lifecycle.lifecycle import Lifecycle
from .order import Failed, Order, Report, Share, Stage
from .routing import Routed, Router, named
from .settings import Settings

_REROUTES = 2
_LATER = 1.0
"""Seconds after which a request whose deadline is over is certain to have been told so."""

Given = tuple[int, Piece | Finished]
Reroute = Callable[[tuple[str, ...]], Awaitable[Routed]]
"""Routes the order again, to others than those named. Raises `TurnedAwayError`."""


class Request:
    """One request that is being answered, in a task of its own; `close` it in any case.

    `reroute` finds others where those asked failed before any text was given.
    """

    def __init__(
        self, order: Order, report: Report, experts: Experts, jury: Jury, patience: float, reroute: Reroute
    ) -> None:
        self.order, self.report = order, report
        self._experts, self._jury, self._patience, self._reroute = experts, jury, patience, reroute
        self._given: asyncio.Queue[Given | Exception | None] = asyncio.Queue()
        self._gave = False
        report.began = time.perf_counter() - report.routed.seconds
        self._task = asyncio.create_task(self._answer_in_time())

    async def events(self) -> AsyncIterator[Given]:
        """Pieces and ends of the choices by their number, as they come. `TurnedAwayError` where the request fails."""
        while (given := await self._given.get()) is not None:
            if isinstance(given, Exception):
                raise given
            yield given

    def end(self, why: TurnedAway) -> None:
        """Give up: nothing more is given, and `events` raises why."""
        while not self._given.empty():
            self._given.get_nowait()
        self._given.put_nowait(TurnedAwayError(why))
        self._task.cancel()

    async def close(self) -> None:
        """Cancel what is not finished."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _answer_in_time(self) -> None:
        try:
            async with asyncio.timeout(self.order.deadline):
                await self._choices_by_somebody()
        except TimeoutError:
            message = f"no answer within {self.order.deadline:g} s"
            status = (
                408 if self.order.hurried else 503
            )  # one is what the client asked for, the other the service's fault
            self._given.put_nowait(TurnedAwayError(TurnedAway(status, "deadline_exceeded", message, 1.0)))
        except Exception as error:
            self._given.put_nowait(error)
        finally:
            self.report.total = self.report.now
            self._given.put_nowait(None)

    async def _choices_by_somebody(self) -> None:
        """Every choice; by others where none of those asked could be had."""
        failed: tuple[str, ...] = ()
        while True:
            try:
                return await self._choices()
            except TurnedAwayError as error:
                over = self._gave or self.report.rerouted >= _REROUTES or self.report.routed.path == "named"
                if over or error.why.code != "expert_unavailable":
                    raise
                failed += tuple(assignment.expert for assignment in self.report.routed.asked)
                try:
                    self.report.routed = await self._reroute(failed)
                except TurnedAwayError:
                    raise error from None
                self.report.rerouted += 1

    async def _choices(self) -> None:
        """Every choice. Greedy ones are equal: they are generated once and given to all."""
        drawn = self.order.query.sampling.temperature > 0
        groups = [(n,) for n in range(self.order.n)] if drawn else [tuple(range(self.order.n))]
        choice = self._aggregated if self.report.routed.path == "aggregated" else self._alone
        tasks = [asyncio.ensure_future(choice(self._query(group[0]), group)) for group in groups]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _query(self, number: int) -> Query:
        """The query of one choice, with a seed of its own where one was given."""
        query = self.order.query
        seed = None if query.sampling.seed is None else query.sampling.seed + number
        return replace(query, id=str(number), sampling=replace(query.sampling, seed=seed))

    async def _alone(self, query: Query, choices: Sequence[int]) -> None:
        """One expert's words, passed on as they come."""
        (assignment,) = self.report.routed.asked
        generation = await self._generate(query, assignment.expert, assignment.slot, choices)
        self._give(choices, Finished(generation))

    async def _aggregated(self, query: Query, choices: Sequence[int]) -> None:
        """The answer that several experts' answers make."""
        recruitment = self.report.routed.recruitment
        own = tuple(replace(assignment, query_id=query.id) for assignment in recruitment.assignments)
        recruitment = replace(recruitment, query_id=query.id, assignments=own)
        models = {assignment.expert: "" for assignment in own}
        calls = [call for step in plan([query], [recruitment], models).steps for call in step.calls]
        given = await self._candidates(calls)
        found = [given[assignment.expert, assignment.slot] for assignment in own]
        answer = await self._jury.judge(query, found, recruitment, self._generate, self._note_stage)
        self.report.answers.append(answer)
        self._note_first_token()
        self._give(choices, Piece(answer.text))
        tokens = (answer.prompt_tokens, answer.completion_tokens)
        self._give(choices, Finished(Generation(answer.text, answer.finish_reason, *tokens)))

    async def _candidates(self, calls: Sequence[Call]) -> dict[tuple[str, int], Candidate]:
        """Every call's candidates by expert and slot. Experts that fail have no say; if all do, the request fails."""
        waited = (self._generate(call.query, call.expert, call.serves[0].slot) for call in calls)
        given = await asyncio.gather(*waited, return_exceptions=True)
        failures = [each for each in given if isinstance(each, BaseException)]
        fatal = [each for each in failures if not isinstance(each, TurnedAwayError) or each.why.status < 500]
        if fatal or len(failures) == len(calls):
            raise (fatal or failures)[0]
        generations = [NO_ANSWER if isinstance(each, BaseException) else each for each in given]
        found = [c for call, each in zip(calls, generations, strict=True) for c in candidates(call, each, "resident")]
        return {(candidate.expert, candidate.slot): candidate for candidate in found}

    async def _generate(self, query: Query, expert: str, slot: int, choices: Sequence[int] = ()) -> Generation:
        """One expert's generation; its pieces go to `choices` as they come."""
        stream, ident = self.order.stream and bool(choices), f"{self.order.id}-{query.id}-{expert}-{slot}"
        background = self.order.background
        asked = Asked(ident, expert, query, self.order.key, self._patience, stream, background=background)
        try:
            return await self._followed(asked, choices)
        except TurnedAwayError as error:
            self.report.failures.append(Failed(expert, error.why.code))
            self.report.refused += error.why.spent
            raise

    async def _followed(self, asked: Asked, choices: Sequence[int]) -> Generation:
        begun: Begun | None = None
        began = self.report.now
        async with aclosing(asking(self._experts, asked)) as events:
            async for event in events:
                if isinstance(event, Begun):
                    begun = event
                    self.report.begun.append(event)
                elif isinstance(event, Piece):
                    self._note_first_token()
                    self.report.pieces += 1
                    self._give(choices, event)
                elif isinstance(event, Finished) and begun is not None:
                    share = Share(asked.expert, begun, event.generation, began, self.report.now)
                    self.report.shares.append(share)
                    return event.generation
        message = f"expert {asked.expert!r} ended without an answer"
        raise TurnedAwayError(TurnedAway(503, "expert_lost", message, 1.0))

    def _give(self, choices: Sequence[int], event: Piece | Finished) -> None:
        self._gave = self._gave or bool(choices)
        for number in choices:
            self._given.put_nowait((number, event))

    def _note_first_token(self) -> None:
        if self.report.first_token is None:
            self.report.first_token = self.report.now

    def _note_stage(self, name: str, began: float, seconds: float, failed: bool) -> None:
        self.report.stages.append(Stage(name, began - self.report.began, seconds, failed))


class Orchestrator:
    """Answers orders with a pool's records and the replicas that run its experts.

    `stored` remembers what operators decide about experts; without it that is forgotten with this process. Candidates
    are weighed by `gate`, without one in this process.
    """

    def __init__(
        self,
        assembly: Assembly,
        experts: Experts,
        settings: Settings,
        stored: Stored | None = None,
        gate: Gating | None = None,
    ) -> None:
        self.lifecycle = Lifecycle(assembly.pool, experts, settings, stored)
        self.router = Router(assembly, settings.trust, self.lifecycle.roster)
        self._settings = settings
        self._jury = Jury(assembly, gate)

    async def begin(self, order: Order) -> Request:
        """Route an order and begin to answer it."""

        async def reroute(failed: tuple[str, ...]) -> Routed:
            without = tuple(sorted({*self.lifecycle.roster.without, *order.choice.without, *failed}))
            choice = replace(order.choice, without=without)
            return await self.router.route(order.query, choice, order.explain, order.background)

        if order.expert is not None:
            routed = named(order.query, order.expert)
        else:
            routed = await self.router.route(order.query, order.choice, order.explain, order.background)
        longest = self._settings.longest_wait if order.patience is None else order.patience
        patience = min(longest, order.deadline + _LATER)
        return Request(order, Report(routed), self.lifecycle.experts, self._jury, patience, reroute)
