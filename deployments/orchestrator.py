"""One request on its way: route, ask, gate, aggregate, and give its pieces as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from symmoe.build import Assembly
from symmoe.executor.candidates import LOST as NO_ANSWER
from symmoe.executor.candidates import candidates
from symmoe.planning.grouping import plan
from symmoe.types import Answer, Call, Candidate, Generation, Query

from .catalogue import Choosing
from .events import Asked, Begun, Finished, Piece, TurnedAway
from .experts import Experts, TurnedAwayError, asking
from .judging import Jury
from .routing import Routed, Router, named
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants: `n` answers to a query from an expert by name, or else from those that `choice` finds.

    No two orders have the same `id`. `key` says who it is, for fair shares; `deadline` is in seconds from now.
    """

    id: str
    query: Query
    key: str
    expert: str | None
    choice: Choosing
    n: int = 1
    stream: bool = False
    explain: bool = False
    deadline: float = 300.0


@dataclass(frozen=True, slots=True)
class Share:
    """What one expert contributed: how its generation began, and what it gave."""

    expert: str
    begun: Begun
    generation: Generation


@dataclass(slots=True)
class Report:
    """How a request went, filled in while it goes on. Times are seconds since it came in, or lengths."""

    routed: Routed
    shares: list[Share] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    first_token: float | None = None
    total: float | None = None

    @property
    def prompt_tokens(self) -> int:
        """Of all generations together."""
        return sum(share.generation.prompt_tokens for share in self.shares)

    @property
    def completion_tokens(self) -> int:
        """Of all generations together."""
        return sum(share.generation.completion_tokens for share in self.shares)


Given = tuple[int, Piece | Finished]


class Request:
    """One request that is being answered, in a task of its own; `close` it in any case."""

    def __init__(self, order: Order, report: Report, experts: Experts, jury: Jury, patience: float) -> None:
        self.order, self.report = order, report
        self._experts, self._jury, self._patience = experts, jury, patience
        self._given: asyncio.Queue[Given | Exception | None] = asyncio.Queue()
        self._began = time.perf_counter() - report.routed.seconds
        self._task = asyncio.create_task(self._answer_in_time())

    async def events(self) -> AsyncIterator[Given]:
        """Pieces and ends of the choices by their number, as they come. `TurnedAwayError` where the request fails."""
        while (given := await self._given.get()) is not None:
            if isinstance(given, Exception):
                raise given
            yield given

    async def close(self) -> None:
        """Cancel what is not finished."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _answer_in_time(self) -> None:
        try:
            async with asyncio.timeout(self.order.deadline):
                await self._choices()
        except TimeoutError:
            message = f"no answer within {self.order.deadline:g} s"
            self._given.put_nowait(TurnedAwayError(TurnedAway(503, "deadline_exceeded", message, 1.0)))
        except Exception as error:
            self._given.put_nowait(error)
        finally:
            self.report.total = time.perf_counter() - self._began
            self._given.put_nowait(None)

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
        answer = await self._jury.judge(query, found, recruitment, self._generate)
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
        stream = self.order.stream and bool(choices)
        asked = Asked(
            f"{self.order.id}-{query.id}-{expert}-{slot}", expert, query, self.order.key, self._patience, stream
        )
        begun: Begun | None = None
        async with aclosing(asking(self._experts, asked)) as events:
            async for event in events:
                if isinstance(event, Begun):
                    begun = event
                    self.report.begun.append(event)
                elif isinstance(event, Piece):
                    self._note_first_token()
                    self._give(choices, event)
                elif isinstance(event, Finished) and begun is not None:
                    self.report.shares.append(Share(expert, begun, event.generation))
                    return event.generation
        raise TurnedAwayError(TurnedAway(503, "expert_lost", f"expert {expert!r} ended without an answer", 1.0))

    def _give(self, choices: Sequence[int], event: Piece | Finished) -> None:
        for number in choices:
            self._given.put_nowait((number, event))

    def _note_first_token(self) -> None:
        if self.report.first_token is None:
            self.report.first_token = time.perf_counter() - self._began


class Orchestrator:
    """Answers orders with a pool's records and the replicas that run its experts."""

    def __init__(self, assembly: Assembly, experts: Experts, settings: Settings) -> None:
        self.router = Router(assembly, settings.trust)
        self._experts, self._settings = experts, settings
        self._jury = Jury(assembly)

    async def begin(self, order: Order) -> Request:
        """Route an order and begin to answer it."""
        if order.expert is not None:
            routed = named(order.query, order.expert)
        else:
            routed = await self.router.route(order.query, order.choice, order.explain)
        patience = min(self._settings.longest_wait, order.deadline)
        return Request(order, Report(routed), self._experts, self._jury, patience)
