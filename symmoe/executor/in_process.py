"""Runs a plan as one worker, and turns an engine's generations into candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from symmoe.errors import CapacityError, CheckpointError, EngineError, EngineLostError
from symmoe.executor.dispatch import Dispatch
from symmoe.protocols import Engine, Loader
from symmoe.tools import calls_in
from symmoe.types import Call, Candidate, Generation, Lane, Load, Plan, Query, Refusal, Step

LOST = Generation("", "error", 0, 0)
"""What stands for a call that cannot be answered: it weighs nothing in the vote."""


def unread(call: Call, generation: Generation) -> Generation:
    """A generation unchanged."""
    return generation


Read = Callable[[Call, Generation], Generation]


def candidates(call: Call, generation: Generation, lane: Lane) -> list[Candidate]:
    """One candidate for each assignment that the call serves; the first one carries its tokens."""
    sampling = call.query.sampling
    calls = (generation.calls or calls_in(generation.text, sampling.tools))[: sampling.most_calls]
    return [
        Candidate(
            query_id=assignment.query_id,
            expert=assignment.expert,
            slot=assignment.slot,
            text=generation.text,
            finish_reason=generation.finish_reason,
            prompt_tokens=generation.prompt_tokens,
            completion_tokens=generation.completion_tokens,
            lane=lane,
            shared=number > 0,
            logprobs=generation.logprobs,
            stop=generation.stop,
            calls=calls,
            reasoning=generation.reasoning,
            reasoning_tokens=generation.reasoning_tokens,
        )
        for number, assignment in enumerate(call.serves)
    ]


class InProcessExecutor:
    """Runs one step after another, for however many workers the plan was made.

    An engine that dies, hangs or fails is made ready again, and only its unanswered calls are repeated. A call that
    ends three engines, the last time alone, is given up. `read` separates a generation's reasoning and tool calls from
    its text.
    """

    def __init__(self, engine: Engine, loader: Loader, read: Read = unread) -> None:
        self._engine, self._loader, self._read = engine, loader, read

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        """For each query, why an expert could never answer it, or None."""
        return self._engine.refuse(queries, self._loader.model(expert))

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """Run every step, loading each expert once; loads and candidates are yielded as they happen.

        Raises `EngineError` for an expert that ended three engines before it was ready, or failed three times, and its
        other errors, such as `CheckpointError`, at once. All name the expert.
        """
        dispatch = Dispatch(Plan(tuple(merged(plan))), workers=1)
        while (step := dispatch.next(0)) is not None:
            lane: Lane = "resident"
            try:
                load = self._loader.ready(step.expert)
                dispatch.loaded(0)
                lane = load.lane
                self._loader.expect(dispatch.ahead(0))
                yield load
                for call, generation in self._engine.generate(step.calls):
                    if dispatch.delivered(0, call):
                        yield candidates(call, self._read(call, generation), lane)
            except EngineLostError:
                for call in dispatch.died(0):
                    yield candidates(call, LOST, lane)
            except EngineError as error:
                self._engine.close()  # after an error nobody knows what state an engine is in
                dispatch.failed(0, error)
            except (CheckpointError, CapacityError) as error:
                error.of(step.expert, unloaded=True)
                raise
            else:
                dispatch.finished(0)

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


def merged(plan: Plan) -> list[Step]:
    """The plan for one worker: each expert's steps merged into its first; steps without calls are left out."""
    steps: dict[str, Step] = {}
    for step in plan.steps:
        if step.calls:
            before = steps[step.expert].calls if step.expert in steps else ()
            steps[step.expert] = replace(step, calls=before + step.calls, worker=0, joint=None)
    return list(steps.values())
