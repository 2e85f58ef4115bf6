"""Running a plan as one worker, and what an engine gives as candidates."""

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
    """A generation as it is."""
    return generation


Read = Callable[[Call, Generation], Generation]


def candidates(call: Call, generation: Generation, lane: Lane) -> list[Candidate]:
    """One candidate for each assignment that the call serves; the first bears its tokens."""
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
    """One step after another, whatever workers the plan was made for.

    An engine that dies, is ended because it hangs, or fails, is made ready again, and only the calls that it had not
    answered are repeated. A call that ends three, the last time alone, is given up. `read` tells thoughts and calls of
    a generation from its text.
    """

    def __init__(self, engine: Engine, loader: Loader, read: Read = unread) -> None:
        self._engine, self._loader, self._read = engine, loader, read

    def refuse(self, queries: Sequence[Query], expert: str) -> list[Refusal | None]:
        """Why an expert could never answer each query; None where it could."""
        return self._engine.refuse(queries, self._loader.model(expert))

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """Run every step, each expert once; loads and candidates come out as they happen.

        `EngineError` for an expert with which three engines died before they were ready, or that failed three times;
        other errors of one, such as a `CheckpointError`, at once. Both name it.
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
        """Stop what runs."""
        self._engine.close()


def merged(plan: Plan) -> list[Step]:
    """The plan for one worker: each expert's steps as one, where its first stood; steps without calls are left out."""
    steps: dict[str, Step] = {}
    for step in plan.steps:
        if step.calls:
            before = steps[step.expert].calls if step.expert in steps else ()
            steps[step.expert] = replace(step, calls=before + step.calls, worker=0, joint=None)
    return list(steps.values())
