"""Reward models that are sequence classifiers of one label, such as Skywork-Reward-V2."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.scoring.batching import TOKEN_BUDGET, padded, read_in_batches
from symmoe.scoring.checkpoint import Precision, load_model, load_tokenizer, window_of
from symmoe.scoring.conversation import Conversation, ConversationTokenizer
from symmoe.types import Query, Reward


class ClassifierRewardModel:
    """The classifier's logit is the score; it has no objectives.

    Which token it reads is the model's own affair (the last that is not its padding token). A model without a padding
    token reads one answer at a time.
    """

    def __init__(self, model: Any, tokens: ConversationTokenizer, budget: int = TOKEN_BUDGET) -> None:
        self._model, self._tokens = model, tokens
        self._pad: int | None = model.config.get_text_config().pad_token_id
        self._budget = 0 if self._pad is None else budget

    def score(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> list[list[Reward]]:
        """A reward for every answer of every query, in order; one that cannot be judged has the score None."""
        return read_in_batches(self._tokens, queries, candidates, self._read, self._budget)

    def _read(self, conversations: Sequence[Conversation]) -> list[Reward]:
        import torch

        ids, mask = padded(conversations, self._pad or 0, self._model.device)
        with torch.inference_mode():
            logits: list[float] = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].tolist()
        return [Reward(x) if isfinite(x) else Reward(None, note="the model's score is not finite") for x in logits]


def load_classifier(
    directory: Path,
    precision: Precision = "auto",
    device: str = "cpu",
    window: int | None = None,
    budget: int = TOKEN_BUDGET,
) -> ClassifierRewardModel:
    """The model in `directory`, of any architecture that transformers classifies sequences with.

    `window` is the most tokens of one conversation, `budget` those of one batch. Raises `CheckpointError` for a model
    that gives more than one number, or whose tensors are missing, damaged, not finite or of the wrong size.
    """
    read_json(directory / "config.json")
    tokenizer = load_tokenizer(directory)
    model = load_model(directory, "AutoModelForSequenceClassification", precision, device)
    if model.config.num_labels != 1:
        raise CheckpointError(
            f"{directory}: a classifier of {model.config.num_labels} labels, where a reward model has one",
            hint="use a checkpoint that was trained as a reward model",
        )
    return ClassifierRewardModel(model, ConversationTokenizer(tokenizer, window_of(model, window)), budget)
