"""What a way of answering gives and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from symmoe.types import Candidate


@dataclass(frozen=True, slots=True)
class Spent:
    """Generations and their tokens, and the seconds of loading and generating.

    A generation that serves several draws (greedy, equal prompts) counts once.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to each question, in order, and what all of them cost."""

    texts: tuple[str, ...]
    spent: Spent


def spent_on(candidates: Iterable[Candidate], seconds: float) -> Spent:
    """The cost of candidates that were generated in `seconds`: shared ones and those refused cost nothing."""
    own = [candidate for candidate in candidates if not candidate.shared and candidate.finish_reason != "error"]
    prompt = sum(candidate.prompt_tokens for candidate in own)
    return Spent(len(own), prompt, sum(candidate.completion_tokens for candidate in own), seconds)
