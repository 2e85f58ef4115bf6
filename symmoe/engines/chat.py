"""Words to token ids: a checkpoint's own tokenizer and chat template."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.limits import PROMPT_CHARACTERS_PER_TOKEN, PROMPT_SLACK, TEMPLATE_SECONDS
from symmoe.tools import worded
from symmoe.types import Message, Prompt, Query, Refusal


class TemplateTimeoutError(Exception):
    """A chat template took too long to render a conversation."""

    def __init__(self) -> None:
        super().__init__(f"it took more than {TEMPLATE_SECONDS:g} s")


class ChatTokenizer:
    """Renders queries with the chat template of the checkpoint in `model` and counts them against a window."""

    def __init__(self, model: str, window: int) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{model}: no usable tokenizer ({error})") from error
        if not self._tokenizer.chat_template:
            raise CheckpointError(f"{model}: its tokenizer has no chat template", hint="use an instruction-tuned model")
        self.model, self.window = model, window
        self._ids(
            ""
        )  # undoes what the files say of cutting: from now on nothing in it changes, and threads may share it

    def prompt(self, query: Query, window: int | None = None) -> Prompt | Refusal:
        """A query's prompt, or why it has none. Refusing far too long text costs little more than text that just fits.

        `window` is the engine's, where it is smaller than the checkpoint's.
        """
        window = min(self.window, window or self.window)
        try:
            text = self._render(query)
        except Exception as error:  # a chat template raises what it likes, such as for roles that it does not know
            message = f"the expert's chat template: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            return Refusal(query.id, "invalid_messages", message)
        size, raw = window * PROMPT_CHARACTERS_PER_TOKEN, query.sampling.raw
        ids = self._ids(text[:size], raw)
        while size < len(text) and len(ids) < window + PROMPT_SLACK:
            size *= 4
            ids = self._ids(text[:size], raw)
        if len(ids) < window:
            return Prompt(self.model, tuple(ids))
        tokens = f"more than {window}" if size < len(text) else str(len(ids))
        message = f"the prompt is {tokens} tokens long; the experts' window is {window}, the answer included"
        return Refusal(query.id, "context_length_exceeded", message, len(ids))

    def encode(self, query: Query) -> list[int]:
        """All token ids of a query, without limit: for text of our own only. Raises what the chat template raises."""
        return self._ids(self._render(query), query.sampling.raw)

    def refuse(self, queries: Sequence[Query]) -> list[Refusal | None]:
        """A refusal for each query whose prompt fills the window; None for those with room for an answer."""
        found: dict[Any, Refusal | None] = {}
        for query in queries:
            if _worded(query) not in found:
                prompt = self.prompt(query)
                found[_worded(query)] = prompt if isinstance(prompt, Refusal) else None
        refusals = ((query, found[_worded(query)]) for query in queries)
        return [refusal and Refusal(query.id, refusal.code, refusal.message) for query, refusal in refusals]

    def _render(self, query: Query) -> str:
        """The conversation as text. Transformers renders in a sandbox: a template reaches nothing but the messages."""
        if query.sampling.raw:
            return query.text
        tools, options = query.sampling.tools, json.loads(query.sampling.template or "{}")
        knows = "tools" in str(self._tokenizer.chat_template)
        messages = [_as_told(message) for message in (query.messages if knows else worded(query.messages, tools))]
        if tools and knows:
            options["tools"] = json.loads(tools)
        with _time_limit(TEMPLATE_SECONDS):
            text: str = self._tokenizer.apply_chat_template(
                messages, **{"add_generation_prompt": True, **options}, tokenize=False
            )
        return text

    def _ids(self, text: str, raw: bool = False) -> list[int]:
        """Tokens of a text; a template writes those that a prompt begins with itself."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=raw).input_ids
        return ids


_IMAGE = {"type": "image"}


def _as_told(message: Message) -> dict[str, Any]:
    """A turn as chat templates take it: arguments of calls are objects there."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        turn["content"] = [
            {"type": "text", "text": part} if isinstance(part, str) else _IMAGE for part in message.parts
        ]
    if message.calls:
        functions = ({"name": call.name, "arguments": json.loads(call.arguments)} for call in message.calls)
        called = zip(message.calls, functions, strict=True)
        turn["tool_calls"] = [{"id": call.id, "type": "function", "function": function} for call, function in called]
    return turn | ({"tool_call_id": message.call_id} if message.role == "tool" else {})


def _worded(query: Query) -> tuple[object, ...]:
    """What a query's prompt is made of."""
    return query.messages, query.sampling.template, query.sampling.raw, query.sampling.tools


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TemplateTimeoutError` in this thread after so many seconds, between two steps of Python code."""
    lock, over, thread = threading.Lock(), False, threading.get_ident()

    def raise_it() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(TemplateTimeoutError)
                )

    timer = threading.Timer(seconds, raise_it)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
