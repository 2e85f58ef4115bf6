"""Running a plan in this process: make each expert ready, let it answer, hand out its candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from symmoe.protocols import Engine, Loader
from symmoe.types import Call, Candidate, Generation, Lane, Load, Plan, Query, Refusal


class InProcessExecutor:
    """One engine, one step after another."""

    def __init__(self, engine: Engine, loader: Loader) -> None:
        self._engine = engine
        self._loader = loader

    def refuse(self, queries: Sequence[Query]) -> list[Refusal | None]:
        """Why each query could never be served; None where it could."""
        return self._engine.refuse(queries)

    def run(self, plan: Plan) -> Iterator[Load | list[Candidate]]:
        """Run every step; loads and candidates come out as they happen."""
        for step in plan.steps:
            load = self._loader.ready(step.expert)
            yield load
            for call, generation in self._engine.generate(step.calls):
                yield _candidates(call, generation, load.lane)

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


def _candidates(call: Call, generation: Generation, lane: Lane) -> list[Candidate]:
    """One candidate for each assignment that the call serves; the first bears its tokens."""
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
        )
        for number, assignment in enumerate(call.serves)
    ]
