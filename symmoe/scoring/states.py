"""Hidden states that heads read: those of a frozen language model, or sentence embeddings instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from symmoe.errors import CheckpointError
from symmoe.protocols import Embedder
from symmoe.scoring.conversation import TOKEN_BUDGET, Conversation, ConversationTokenizer, batches, padded
from symmoe.scoring.heads import Floats, weight_files
from symmoe.types import Query

Pooling = Literal["last", "mean"]
"""An answer's state: that of its last token, or the mean from the gate's token on."""

Architecture = Literal["AutoModel", "AutoModelForSequenceClassification"]
Precision = Literal["auto", "float32", "bfloat16"]


class HiddenStates(Protocol):
    """Computes the states of prompts and answers."""

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt states `[n, d]` and answer states `[n, e]`, a row for each candidate of each query, in order.

        Candidates that cannot be read get rows of NaN.
        """
        ...


class BackboneStates:
    """A language model's last-layer states: at the gate's token, and pooled over the answer."""

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
    device: str = "cpu",
    window: int | None = None,
    budget: int = TOKEN_BUDGET,
    pooling: Pooling = "last",
) -> BackboneStates:
    """The states of the backbone in `directory`; heads in the same files are not read.

    `header` is where the gate reads the prompt (see `ConversationTokenizer`), `window` the most tokens of one
    conversation, `budget` those of one batch. Raises `CheckpointError`.
    """
    model = load_model(directory, "AutoModel", "auto", device)
    tokens = ConversationTokenizer(load_tokenizer(directory), window_of(model, window), header)
    return BackboneStates(model, tokens, budget, pooling)


class EmbeddedStates:
    """Embeddings as states: the prompt's own; for an answer, its own and that of prompt and answer as one text.

    Each distinct text is embedded once.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt states `[n, d]` and answer states `[n, 2d]`."""
        rows = [(query.text, text) for query, row in zip(queries, candidates, strict=True) for text in row]
        wanted = [(prompt, text, f"{prompt}\n{text}") for prompt, text in rows]
        distinct = list(dict.fromkeys(text for trio in wanted for text in trio))
        place = {text: number for number, text in enumerate(distinct)}
        vectors = self._embedder.embed(distinct)
        prompts, alone, both = (vectors[[place[trio[part]] for trio in wanted]] for part in range(3))
        return prompts, np.hstack([alone, both])


def load_model(directory: Path, architecture: Architecture, precision: Precision, device: str) -> Any:
    """A transformers model in evaluation mode. Raises `CheckpointError` unless all weights are present, finite and fit.

    `precision` "auto" is the checkpoint's own.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    weight_files(directory)
    try:
        with _quiet():
            model, info = getattr(transformers, architecture).from_pretrained(
                directory,
                dtype=precision if precision == "auto" else getattr(torch, precision),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: cannot be loaded ({error})") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{directory}: {len(missing)} tensors are missing, the first is {missing[0]}")
    model = model.eval().to(device)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(f"{directory}: {name} holds NaN or infinite numbers")
    return model


def load_tokenizer(directory: Path) -> Any:
    """The checkpoint's tokenizer. Raises `CheckpointError`."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: no usable tokenizer ({error})") from error


def window_of(model: Any, window: int | None) -> int:
    """The tokens that a model can read: its config's limit, or `window` if that is less."""
    model_window = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    return min(filter(None, (model_window, window)), default=4096)


@contextmanager
def _quiet() -> Iterator[None]:
    """Tensors beyond the backbone's are no news here, so transformers need not report them."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
