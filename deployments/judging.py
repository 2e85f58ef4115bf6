"""Several experts' answers made one: by the pool's gate, its vote and, where that is not enough, its aggregator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from symmoe import build
from symmoe.aggregation.cases import Case, no_answer
from symmoe.aggregation.synthesis import SLOT, Decision, decide, settle
from symmoe.aggregation.vote import aggregate
from symmoe.build_aggregation import build_synthesis, build_vote
from symmoe.executor.candidates import candidates
from symmoe.types import Answer, Call, Candidate, Generation, Query, Recruitment, Verdict

from .events import TurnedAway
from .experts import TurnedAwayError
from .gating import Gating, LocalGate

Note = Callable[[str, float, float, bool], None]
"""Is told of a stage that is over: its name, when it began by `time.perf_counter`, the seconds, whether it failed."""
Ask = Callable[[Query, str, int], Awaitable[Generation]]
"""Has an expert, named second, generate for a query in a slot. Raises `TurnedAwayError`."""


class Jury:
    """Judges one query's candidates, weighed by `gate`, else in this process. What takes thought is done in threads."""

    def __init__(self, assembly: build.Assembly, gate: Gating | None = None) -> None:
        pool, embedder = assembly.pool, assembly.embedder
        self._gate, self._vote = gate or LocalGate(assembly.gate), build_vote(pool, embedder)
        self._synthesis = build_synthesis(
            pool, embedder, lambda expert: assembly.weights(expert).model, assembly.profiles
        )

    async def judge(
        self, query: Query, found: Sequence[Candidate], recruitment: Recruitment, ask: Ask, note: Note
    ) -> Answer:
        """The one answer; `ask` asks the aggregator. Raises `TurnedAwayError` where no expert said anything."""
        refusal = no_answer(query, found)
        if refusal is not None:
            raise TurnedAwayError(TurnedAway(503, refusal.code, refusal.message, 1.0))
        began = time.perf_counter()
        weighed = await self._gate.weigh(query, found, recruitment)
        gated = time.perf_counter() - began
        note("gate", began, gated, bool(weighed.trouble))
        case = await asyncio.to_thread(self._voted, query, found, weighed.verdicts)
        answer = await self._settled(case, ask)
        note("aggregate", began + gated, time.perf_counter() - began - gated, False)
        if weighed.trouble:
            why = f"weighed by the experts' records alone: {weighed.trouble}"
            return replace(answer, why="; ".join(filter(None, (answer.why, why))))
        return answer

    async def _settled(self, case: Case, ask: Ask) -> Answer:
        if self._synthesis is None:
            return case.voted
        (decision,) = await asyncio.to_thread(decide, self._synthesis, [case], 0, lambda queries: [None] * len(queries))
        said, trouble = await _said(decision, ask)
        settled = await asyncio.to_thread(settle, decision, said, trouble, self._synthesis.clusters)
        return settled.answer

    def _voted(self, query: Query, found: Sequence[Candidate], verdicts: Sequence[Verdict]) -> Case:
        """The vote's winner."""
        (voted,) = aggregate(self._vote, [query], [found], [verdicts])
        return Case(query, tuple(found), tuple(verdicts), voted)


async def _said(decision: Decision, ask: Ask) -> tuple[Candidate | None, str]:
    """What the aggregator says, if it is asked; else why there is nothing."""
    if decision.prompt is None:
        return None, ""
    try:
        generation = await ask(decision.prompt.query, decision.aggregator, SLOT)
    except TurnedAwayError as error:  # the candidates are there already
        return None, f"the aggregator could not run: {error}"
    call = Call(decision.aggregator, decision.prompt.query, decision.recruitment.assignments)
    return candidates(call, generation, "resident")[0], ""
