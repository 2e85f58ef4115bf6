"""Sentence embeddings through sentence-transformers, and those of recorded questions kept on disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError
from symmoe.protocols import Embedder

MANY = 256
"""From so many texts on the processor's 16-bit units embed, where it has them: three times as fast, the cosine between
what they and 32 bits make at least 0.9999."""
KEPT_BYTES = 256 << 20
"""So much of embeddings is kept for each embedder; beyond it the oldest go."""
_DIGEST = 16


class SentenceEmbedder:
    """all-MiniLM-L6-v2 or any other sentence-transformers model; loaded when first asked, used by one thread at a time.

    `locate` gives the model's directory, and may prepare or fetch it. Texts beyond the model's window (256 tokens for
    MiniLM) are cut by the model itself. With `half`, for recorded questions, many texts at
    once are embedded in half precision; without it a question is embedded alike alone and among many.
    """

    def __init__(self, locate: Callable[[], Path], half: bool = False) -> None:
        self._locate, self.half = locate, half
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
            with _half_precision(self.half and len(texts) >= MANY):
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


def _half_precision(wanted: bool) -> Any:
    """A context in which matrices are multiplied in bfloat16, where that is wanted and the processor's units do it."""
    import torch

    able = torch.cpu._is_amx_tile_supported()  # public in no release yet; without tiles it is slower than 32 bits
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=wanted and able)


class KeptEmbedder:
    """An embedder that keeps what it embedded in a folder, for questions that are asked again and again.

    Vectors stand in safetensors files beside digests of their texts, not the texts. `key` tells embedders apart; it is
    asked for when something is first embedded.
    """

    def __init__(self, embedder: Embedder, folder: Path, key: Callable[[], str]) -> None:
        self._embedder, self._folder, self._key = embedder, folder, key

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts together are read when they are embedded."""
        return self._embedder.tokens(texts)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed `n` texts as an `[n, d]` array of unit rows, only those that were not embedded before."""
        folder = self._folder / self._key()
        digests = [hashlib.sha256(text.encode("utf-8", "replace")).digest()[:_DIGEST] for text in texts]
        known = _kept(folder, set(digests))
        fresh = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known}
        if fresh:
            made = self._embedder.embed(list(fresh.values()))
            _keep(folder, list(fresh), made)
            known |= dict(zip(fresh, made, strict=True))
        return np.stack([known[digest] for digest in digests]) if texts else self._embedder.embed(texts)


def _kept(folder: Path, wanted: set[bytes]) -> dict[bytes, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    found: dict[bytes, NDArray[np.float32]] = {}
    for file in sorted(folder.glob("*.safetensors")) if wanted else ():
        try:
            tensors = load_file(file)
            digests, vectors = tensors["digests"].tobytes(), tensors["vectors"]
        except (OSError, KeyError, SafetensorError):  # cut short, or thrown out by another process: embedded again
            continue
        rows = {digests[n * _DIGEST : (n + 1) * _DIGEST]: n for n in range(len(vectors))}
        found |= {digest: vectors[row] for digest, row in rows.items() if digest in wanted}
    return found


def _keep(folder: Path, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(b"".join(digests)).hexdigest()[:24]
    partial = folder / f"{name}.{os.getpid()}.partial"
    told = np.frombuffer(b"".join(digests), dtype=np.uint8)
    save_file({"digests": told, "vectors": np.ascontiguousarray(vectors)}, partial)
    partial.rename(folder / f"{name}.safetensors")
    room = KEPT_BYTES
    for file in sorted(folder.glob("*.safetensors"), key=lambda each: -each.stat().st_mtime):
        room -= file.stat().st_size
        if room < 0:
            file.unlink(missing_ok=True)


def load_sentence_model(directory: Path) -> Any:
    """A sentence-transformers model from a local directory, without the network. Raises `CheckpointError`."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(directory), local_files_only=True, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: not a sentence-transformers model ({error})") from error
