"""From what an engine gave to candidates."""

from __future__ import annotations

from symmoe.types import Call, Candidate, Generation, Lane

LOST = Generation("", "error", 0, 0)
"""What stands for a call that cannot be answered: it weighs nothing in the vote."""


def candidates(call: Call, generation: Generation, lane: Lane) -> list[Candidate]:
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
