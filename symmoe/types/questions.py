"""A question on its way in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scorer = Literal["exact", "number", "choice", "math", "program"]
Form = Literal["json", "regex", "ebnf"]
AnswerKind = Literal["auto", "text", "number", "choice", "math"]


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a suite: a question with its known answer, and other answers that are equally right.

    The answer of a `program` is its tests, as Python statements.
    """

    id: str
    question: str
    answer: str
    family: str
    scorer: Scorer
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, its arguments as a JSON object. Its result refers to it by `id`."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a turn, as a data URL; `at` is its position in the text, in characters.

    Before it is checked, the URL may be an address.
    """

    url: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    An assistant's may have tool calls, a tool's has the `call_id` that it answers, a user's may have `images`.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    images: tuple[Picture, ...] = ()

    @property
    def parts(self) -> list[str | Picture]:
        """Text and images in their order."""
        found: list[str | Picture] = []
        done = 0
        for image in self.images:
            found += [self.content[done : image.at], image]
            done = image.at
        return [part for part in (*found, self.content[done:]) if part]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an expert is asked to generate. `temperature` 0 is greedy: equal prompts give equal answers.

    `schema` is what the text must follow, in the language named by `form`: a JSON schema as JSON, a regular expression,
    or a grammar. `logit_bias` pairs token ids with what is added to their logits. With `top_logprobs` each token comes
    with its log-probability, and those of that many likeliest ones. `template` holds arguments of the chat template, as
    JSON; a `raw` prompt is given to the expert as it is, without the template. `tools` are those that may be called, as
    JSON in OpenAI's format, at most `most_calls` at once. The other names mean what they mean to vLLM.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: str | None = None
    form: Form = "json"
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    top_logprobs: int | None = None
    template: str = ""
    raw: bool = False
    tools: str = ""
    most_calls: int | None = None

    def __hash__(self) -> int:
        """A hash of the fields that differ most often: a batch looks its calls up a dozen times."""
        return hash((self.max_tokens, self.temperature, self.seed, self.stop, self.schema))


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
        if self.messages[-1].role == "user":  # as nearly always: a batch looks a dozen times
            return self.messages[-1].content
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)

    @property
    def images(self) -> tuple[Picture, ...]:
        """Those of all turns, in their order."""
        return tuple(image for message in self.messages for image in message.images)
