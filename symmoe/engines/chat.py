"""Words to token ids: a checkpoint's own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.types import Query, Refusal


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
        self.window = window

    def encode(self, query: Query) -> list[int]:
        """The token ids of a query, ready for the expert's turn."""
        messages = [{"role": message.role, "content": message.content} for message in query.messages]
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def refuse(self, queries: Sequence[Query]) -> list[Refusal | None]:
        """A refusal for each query whose prompt fills the window; None for those with room for an answer."""
        tokens = {query.messages: 0 for query in queries}
        for query in queries:
            tokens[query.messages] = tokens[query.messages] or len(self.encode(query))
        return [self.refusal(query, tokens[query.messages], self.window) for query in queries]

    def refusal(self, query: Query, tokens: int, window: int) -> Refusal | None:
        """A refusal of a query whose prompt has so many tokens, if they fill the window."""
        if tokens < window:
            return None
        message = f"the prompt is {tokens} tokens long; the experts' window is {window}, the answer included"
        return Refusal(query.id, "context_length_exceeded", message)
