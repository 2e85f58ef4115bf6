"""Sentence embeddings through sentence-transformers, with those of recorded questions cached on disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError
from symmoe.protocols import Embedder

TOKENS = 4096
"""Tokens of the texts that are embedded together."""
CHARACTERS = 4
"""Of a token, as a rule."""
KEPT_BYTES = 256 << 20
"""So much of embeddings is kept for each embedder; beyond it the oldest go."""
_DIGEST = 16


class SentenceEmbedder:
    """all-MiniLM-L6-v2 or any other sentence-transformers model, loaded on first use and used by one thread at a time.

    `locate` returns the model's directory, and may prepare or fetch it. The model cuts texts beyond its window (256
    tokens for MiniLM). Where the processor has tile instructions for 16-bit numbers, the model computes in 16 bits,
    nearly three times as fast for many texts; the cosine to the 32-bit embedding is at least 0.9999.
    """

    def __init__(self, locate: Callable[[], Path]) -> None:
        self._locate = locate
        self._model: Any = None
        self._alone = threading.Lock()  # its tokenizer bears one thread at a time

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens embedding these texts reads in all."""
        with self._alone:
            return int(self._loaded().preprocess(list(texts))["attention_mask"].sum())

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed `n` texts as an `[n, d]` array of unit rows."""
        with self._alone:
            model, parts = self._loaded(), list(_parts(texts))
            if not parts:
                return np.empty((0, model.get_embedding_dimension() or 0), dtype=np.float32)
            rows = np.concatenate([_unit_rows(model, [texts[place] for place in part]) for part in parts])
        vectors = np.empty_like(rows)
        vectors[np.concatenate(parts)] = rows
        return vectors

    def _loaded(self) -> Any:
        if self._model is None:
            import torch

            model = load_sentence_model(self._locate())
            tiles = model.device.type == "cpu" and torch.cpu._is_amx_tile_supported()  # public in no release yet
            self._model = model.to(torch.bfloat16) if tiles else model  # without tiles 32 bits are faster
        return self._model


def _parts(texts: Sequence[str]) -> Iterator[list[int]]:
    """Places of texts that are embedded together: about `TOKENS` tokens each, of texts about as long as each other."""
    places = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    begin = 0
    while begin < len(places):
        longest = max(CHARACTERS, len(texts[places[begin]]))
        end = begin + max(1, TOKENS * CHARACTERS // longest)
        yield places[begin:end]
        begin = end


def _unit_rows(model: Any, texts: list[str]) -> NDArray[np.float32]:
    """A few texts, without what `encode` does besides, which costs a tenth of the time of one."""
    import torch

    with torch.inference_mode():
        features = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in model.preprocess(texts).items()}
        rows = torch.nn.functional.normalize(model(features)["sentence_embedding"].float(), dim=1)
    return np.asarray(rows.cpu().numpy(), dtype=np.float32)


class KeptEmbedder:
    """An embedder with a cache of its vectors in a folder, for questions that are asked repeatedly.

    The safetensors files hold vectors and digests of texts, never the texts. `key` identifies the embedder, and is
    called when something is first embedded.
    """

    def __init__(self, embedder: Embedder, folder: Path, key: Callable[[], str]) -> None:
        self._embedder, self._folder, self._key = embedder, folder, key

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens embedding these texts reads in all."""
        return self._embedder.tokens(texts)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed `n` texts as an `[n, d]` array of unit rows, computing only those that are not cached."""
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
    """Load a sentence-transformers model from a local directory, without the network. Raises `CheckpointError`."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(directory), local_files_only=True, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: not a sentence-transformers model ({error})") from error
