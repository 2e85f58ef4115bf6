"""Sentence embeddings through sentence-transformers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError


class SentenceEmbedder:
    """all-MiniLM-L6-v2 or any other sentence-transformers model; loaded when first asked, used by one thread at a time.

    `locate` gives the model's directory, and may prepare or fetch it. Texts beyond the model's window (256 tokens for
    MiniLM) are cut by the model itself.
    """

    def __init__(self, locate: Callable[[], Path]) -> None:
        self._locate = locate
        self._model: Any = None
        self._alone = threading.Lock()  # its tokenizer bears one thread at a time

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts together are read when they are embedded."""
        with self._alone:
            return int(self._loaded().preprocess(list(texts))["attention_mask"].sum())

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed `n` texts as an `[n, d]` array of unit rows."""
        with self._alone:
            model = self._loaded()
            if len(texts) == 1:
                return _one(model, texts[0])
            vectors = model.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = load_sentence_model(self._locate())
        return self._model


def _one(model: Any, text: str) -> NDArray[np.float32]:
    """One text without what `encode` does for many, which costs a tenth of the time of one."""
    import torch

    with torch.inference_mode():
        features = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in model.preprocess([text]).items()}
        vector = torch.nn.functional.normalize(model(features)["sentence_embedding"].float(), dim=1)
    return np.asarray(vector.cpu().numpy(), dtype=np.float32)


def load_sentence_model(directory: Path) -> Any:
    """A sentence-transformers model from a local directory, without the network. Raises `CheckpointError`."""
    import os

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(directory), local_files_only=True, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: not a sentence-transformers model ({error})") from error
