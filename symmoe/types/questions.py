"""What is asked: suite questions, conversations, and how to generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symmoe.types.quick import quick

Scorer = Literal["exact", "number", "choice", "math", "program"]
Form = Literal["json", "regex", "ebnf"]
AnswerKind = Literal["auto", "text", "number", "choice", "math"]


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a suite: a question, its known answer, and the other answers that are `accepted` as right.

    With the scorer `program`, the answer is tests for the program, as Python statements.
    """

    id: str
    question: str
    answer: str
    family: str
    scorer: Scorer
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; `arguments` is a JSON object as text. The message with the result refers to it by `id`."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in a message; `at` is its position in the text, in characters.

    `url` is a data URL; in a request that was not checked yet it may be an address.
    """

    url: str
    at: int = 0


@quick(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `calls` are an assistant's tool calls, `call_id` is the call whose result a tool gives, `images` are a user's.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    images: tuple[Picture, ...] = ()

    def __hash__(self) -> int:
        """A hash of what differs most often, as of `Sampling`."""
        return hash((self.content, self.images)) if self.images else hash(self.content)

    @property
    def parts(self) -> list[str | Picture]:
        """Text and images in order."""
        parts: list[str | Picture] = []
        done = 0
        for image in self.images:
            parts += [self.content[done : image.at], image]
            done = image.at
        return [part for part in (*parts, self.content[done:]) if part]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a generation. `temperature` 0 is greedy: equal prompts give equal answers.

    `schema` constrains the text; `form` names its language: a JSON schema as JSON, a regular expression, or an EBNF
    grammar. `logit_bias` pairs token ids with what is added to their logits. `top_logprobs` asks for each token's
    log-probability and those of so many most likely tokens; None asks for none. `template` holds arguments of the chat
    template as JSON; `raw` passes the prompt on without the template. `tools` are the tools that may be called, as JSON
    in OpenAI's format, at most `most_calls` in one answer. All other names have vLLM's meaning.
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
        """A hash of the fields that differ most often, since a batch hashes each call a dozen times."""
        return hash((self.max_tokens, self.temperature, self.seed, self.stop, self.schema))


@quick(frozen=True, slots=True)
class Query:
    """One question in the pipeline: a conversation, how to generate, and the `kind` of answer to read from the text."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    kind: AnswerKind = "auto"

    @property
    def text(self) -> str:
        """The text of the last user message; of the last message if there is none."""
        if self.messages[-1].role == "user":  # as nearly always: a batch looks a dozen times
            return self.messages[-1].content
        return next((m.content for m in reversed(self.messages) if m.role == "user"), self.messages[-1].content)

    @property
    def images(self) -> tuple[Picture, ...]:
        """The images of all messages, in order."""
        return tuple(image for message in self.messages for image in message.images)
