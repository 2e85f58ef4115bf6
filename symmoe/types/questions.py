"""A question on its way in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scorer = Literal["exact", "number", "choice", "math", "program"]
AnswerKind = Literal["auto", "text", "number", "choice", "math"]


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a suite: a question with its known answer, and other answers that are as right.

    Of a `program` the answer is its tests, as Python statements.
    """

    id: str
    question: str
    answer: str
    family: str
    scorer: Scorer
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an expert is asked to generate. `temperature` 0 is greedy: equal prompts give equal answers.

    `schema` is a JSON schema, as JSON, that what is generated follows as far as it goes.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """One question on its way through the pipeline. `kind` says how its answer is to be read."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    kind: AnswerKind = "auto"

    @property
    def text(self) -> str:
        """What the user asks: the last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)
