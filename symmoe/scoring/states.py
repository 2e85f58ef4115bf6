"""Hidden states of a frozen language model, which heads read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from symmoe.scoring.batching import TOKEN_BUDGET, batches, padded
from symmoe.scoring.checkpoint import Precision, load_model, load_tokenizer, window_of
from symmoe.scoring.conversation import Conversation, ConversationTokenizer
from symmoe.scoring.heads import Floats
from symmoe.types import Query

Pooling = Literal["last", "mean"]
"""An answer's state: that of its last token, or the mean from the gate's token on."""


class HiddenStates(Protocol):
    """Gives the states of prompts and answers."""

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt states `[n, d]` and answer states `[n, e]`, a row for each candidate of each query, in order.

        Rows of NaN stand for candidates that cannot be read.
        """
        ...


class BackboneStates:
    """The last layer's states of a language model: at the gate's token, and of the answer, pooled."""

    def __init__(
        self, model: Any, tokens: ConversationTokenizer, budget: int = TOKEN_BUDGET, pooling: Pooling = "last"
    ) -> None:
        self._model, self.tokens, self._budget, self._pooling = model, tokens, budget, pooling

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt and answer states, both `[n, hidden]`; NaN where an answer cannot be judged."""
        rows = [
            entry for q, answers in zip(queries, candidates, strict=True) for entry in self.tokens.encode(q, answers)
        ]
        prompts = np.full((len(rows), self._model.config.hidden_size), np.nan, dtype=np.float32)
        answers = prompts.copy()
        readable = [(place, entry) for place, entry in enumerate(rows) if isinstance(entry, Conversation)]
        for batch in batches([len(entry.ids) for _, entry in readable], self._budget):
            places = [readable[i][0] for i in batch]
            prompts[places], answers[places] = self.read([readable[i][1] for i in batch])
        return prompts, answers

    def read(self, conversations: Sequence[Conversation]) -> tuple[Floats, Floats]:
        """Prompt and answer states of one batch, both `[n, hidden]` float32."""
        import torch

        ids, mask = padded(conversations, 0, self._model.device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            rows = torch.arange(len(conversations), device=states.device)
            gates = torch.tensor([c.gate for c in conversations], device=states.device)
            prompts = states[rows, gates].float().cpu().numpy()
            if self._pooling == "mean":
                read = zip(states, conversations, strict=True)
                means = [state[c.gate : len(c.ids)].float().mean(dim=0) for state, c in read]
                return prompts, torch.stack(means).cpu().numpy()
            lasts = torch.tensor([len(c.ids) - 1 for c in conversations], device=states.device)
            return prompts, states[rows, lasts].float().cpu().numpy()


def load_states(
    directory: Path,
    header: str = "",
    precision: Precision = "auto",
    device: str = "cpu",
    window: int | None = None,
    budget: int = TOKEN_BUDGET,
    pooling: Pooling = "last",
) -> BackboneStates:
    """The states of the backbone in `directory`; heads that stand in the same files are not read.

    `header` is where the gate reads the prompt (see `ConversationTokenizer`), `window` the most tokens of one
    conversation, `budget` those of one batch. Raises `CheckpointError`.
    """
    model = load_model(directory, "AutoModel", precision, device)
    tokens = ConversationTokenizer(load_tokenizer(directory), window_of(model, window), header)
    return BackboneStates(model, tokens, budget, pooling)
