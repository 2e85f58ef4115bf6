"""Answers as vLLM's own parsers read them: reasoning apart from the answer's text, and the tools called."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from symmoe.errors import EngineError
from symmoe.types import Generation, Sampling, ToolCall

OWN = "json"
"""The parser of tools that is ours, and reads texts without a reader."""


class Reader:
    """Reads an expert's texts with the vLLM parsers of these names (None for none) and its `tokenizer`.

    Raises `EngineError` for a parser that this vLLM does not have, or that the expert's vocabulary does not suit.
    """

    def __init__(self, tokenizer: Any, reasoning: str | None, tools: str | None) -> None:
        from vllm.reasoning import ReasoningParserManager
        from vllm.tool_parsers import ToolParserManager

        self._tokenizer = tokenizer
        self._reasoning = _found(ReasoningParserManager.get_reasoning_parser, "reasoning", reasoning)
        self._tools = _found(ToolParserManager.get_tool_parser, "tools", tools)
        thinker = self._thinker("")
        self.marked = thinker is None or getattr(thinker, "reasoning_end_str", None) is not None
        """Whether a text that is not whole yet is read right: its marks are known, and are none of its words."""

    @classmethod
    def of(cls, model: str, reasoning: str | None, tools: str | None) -> Reader:
        """The reader of an expert whose checkpoint is in `model`. Raises `EngineError`."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(model, local_files_only=True), reasoning, tools)

    def holds(self, sampling: Sampling) -> bool:
        """Whether text must be held back until it is whole, because it may turn out to be a tool call."""
        return bool(self._tools and sampling.tools)

    def thought(self, text: str, sampling: Sampling) -> tuple[str, str]:
        """The reasoning and the answer in a text, whole or partial. Text that follows a schema has no reasoning."""
        if not self._reasoning or sampling.schema is not None or sampling.raw:
            return "", text
        thought, answer = self._thinker(sampling.template).extract_reasoning(text, self._request("[]"))
        return thought or "", answer or ""

    def read(self, generation: Generation, sampling: Sampling) -> Generation:
        """The generation with its reasoning and tool calls separated from its text."""
        thought, answer = (each.strip() for each in self.thought(generation.text, sampling))
        calls: tuple[ToolCall, ...] = ()
        if self.holds(sampling):
            request = self._request(sampling.tools)
            parsed = self._tools(self._tokenizer, request.tools).extract_tool_calls(answer, request)
            if parsed.tools_called:
                answer = (parsed.content or "").strip()
                calls = tuple(ToolCall(each.function.name, each.function.arguments) for each in parsed.tool_calls)
        tokens = len(self._tokenizer(thought, add_special_tokens=False).input_ids) if thought else 0
        return replace(generation, text=answer, reasoning=thought, reasoning_tokens=tokens, calls=calls)

    def _thinker(self, template: str) -> Any:
        if not self._reasoning:
            return None
        try:
            return self._reasoning(self._tokenizer, chat_template_kwargs=json.loads(template or "{}"))
        except (RuntimeError, ValueError) as error:
            hint = "name the parser of this model's family in the pool file (`reasoning:`), or none"
            raise EngineError(f"the parser of its reasoning does not suit the expert: {error}", hint=hint) from error

    def _request(self, tools: str) -> Any:
        """A request as parsers look at it."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        return ChatCompletionRequest(messages=[], tools=json.loads(tools) or None)


class Parted:
    """Splits a stream of text into reasoning and answer. The pieces add up to what `Reader.read` returns."""

    def __init__(self, reader: Reader, sampling: Sampling) -> None:
        self._reader, self._sampling = reader, sampling
        self._text, self._told = "", ["", ""]

    def feed(self, text: str) -> tuple[str, str]:
        """The new reasoning and the new answer text."""
        self._text += text
        if not self._reader.marked:
            return "", ""
        thought, answer = self._reader.thought(self._text, self._sampling)
        return self._more(0, thought), "" if self._reader.holds(self._sampling) else self._more(1, answer)

    def end(self, generation: Generation) -> tuple[Generation, str, str]:
        """The generation as read, and the rest of its reasoning and of its text."""
        read = self._reader.read(generation, self._sampling)
        return read, self._more(0, read.reasoning), self._more(1, read.text)

    def _more(self, part: int, text: str) -> str:
        """What a part has beyond what was told of it; what may be the space at its end waits."""
        sent, text = self._told[part], text.lstrip().rstrip()
        if not text.startswith(sent):
            return ""
        self._told[part] = text
        return text[len(sent) :]


def _found(get: Any, field: str, name: str | None) -> Any:
    try:
        return name and get(name)
    except (KeyError, ImportError) as error:
        message = f"{field}: this vLLM has no parser {name!r}"
        raise EngineError(message, hint="vLLM's documentation lists them by model") from error
