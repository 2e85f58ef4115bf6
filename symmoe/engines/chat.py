"""Words to token ids: a checkpoint's own tokenizer and chat template."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.limits import PROMPT_CHARACTERS_PER_TOKEN, PROMPT_SLACK, TEMPLATE_SECONDS
from symmoe.types import Prompt, Query, Refusal


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
        """A query's prompt, or why it has none. What is far too long costs little more than what just fits.

        `window` is that of the engine, where it is less than the checkpoint's.
        """
        window = min(self.window, window or self.window)
        try:
            text = self._render(query)
        except Exception as error:  # a chat template raises what it likes, such as for roles that it does not know
            message = f"the expert's chat template: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            return Refusal(query.id, "invalid_messages", message)
        size = window * PROMPT_CHARACTERS_PER_TOKEN
        ids = self._ids(text[:size])
        while size < len(text) and len(ids) < window + PROMPT_SLACK:
            size *= 4
            ids = self._ids(text[:size])
        if len(ids) < window:
            return Prompt(self.model, tuple(ids))
        tokens = f"more than {window}" if size < len(text) else str(len(ids))
        message = f"the prompt is {tokens} tokens long; the experts' window is {window}, the answer included"
        return Refusal(query.id, "context_length_exceeded", message, len(ids))

    def encode(self, query: Query) -> list[int]:
        """All token ids of a query, however many: for text of our own. Raises what the chat template does."""
        return self._ids(self._render(query))

    def refuse(self, queries: Sequence[Query]) -> list[Refusal | None]:
        """A refusal for each query whose prompt fills the window; None for those with room for an answer."""
        found: dict[Any, Refusal | None] = {}
        for query in queries:
            if query.messages not in found:
                prompt = self.prompt(query)
                found[query.messages] = prompt if isinstance(prompt, Refusal) else None
        refusals = ((query, found[query.messages]) for query in queries)
        return [refusal and Refusal(query.id, refusal.code, refusal.message) for query, refusal in refusals]

    def _render(self, query: Query) -> str:
        """The conversation as text. Transformers renders in a sandbox: a template reaches nothing but the messages."""
        messages = [{"role": message.role, "content": message.content} for message in query.messages]
        with _time_limit(TEMPLATE_SECONDS):
            text: str = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


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
