"""Sentence embeddings through sentence-transformers, with those of recorded questions cached on disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError
from symmoe.protocols import Embedder
from symmoe.routing.tiles import Part, Tiles, on_tiles, unit_rows

TOKENS = 4096
"""Tokens of the texts that torch embeds together."""
READ = 32 * TOKENS
"""Tokens, by estimate, of the texts whose tokens are counted together."""
CHARACTERS = 4
"""Of a token, as a rule."""
KEPT_BYTES = 256 << 20
"""So much of embeddings is kept for each embedder; beyond it the oldest go."""
_DIGEST = 16


class SentenceEmbedder:
    """all-MiniLM-L6-v2 or any other sentence-transformers model, loaded on first use and used by one thread at a time.

    `locate` returns the model's directory, and may prepare or fetch it; `kept` returns, for a directory, the folder in
    which the model is kept as it was converted for processors with tiles for 16-bit numbers. The model cuts texts
    beyond its window (256 tokens for MiniLM).
    """

    def __init__(self, locate: Callable[[], Path], kept: Callable[[Path], Path]) -> None:
        self._locate, self._kept = locate, kept
        self._model: Any = None
        self._compiled: Tiles | None = None
        self._alone = threading.Lock()  # its tokenizer bears one thread at a time

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens embedding these texts reads in all."""
        with self._alone:
            return int(self._loaded().preprocess(list(texts))["attention_mask"].sum())

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed `n` texts as an `[n, d]` array of unit rows."""
        with self._alone:
            model = self._loaded()
            if (tiles := self._compiled) is not None:
                made = tiles.rows(_parts(model, texts, tiles.room))
            else:
                made = [(places, _rows(model, features)) for places, features in _parts(model, texts, lambda _: TOKENS)]
        if not made:
            return np.empty((0, model.get_embedding_dimension() or 0), dtype=np.float32)
        rows = np.concatenate([rows for _, rows in made])
        vectors = np.empty_like(rows)
        vectors[np.concatenate([places for places, _ in made])] = rows
        return vectors

    def _loaded(self) -> Any:
        if self._model is None:
            model = load_sentence_model(directory := self._locate())
            self._compiled = on_tiles(model, partial(self._kept, directory))
            self._model = model
        return self._model


def _parts(model: Any, texts: Sequence[str], room: Callable[[int], int]) -> Iterator[Part]:
    """Places of a few texts and their features, until there are all.

    Texts that are embedded together are padded to the longest of them. Characters say little of how long that is:
    exam questions grouped by them are over a third padding, grouped by tokens a fiftieth. So tokens are counted first,
    where the model's features are a row of tokens for each text. `room` says how many tokens go together, of so many.
    """
    for read in _alike([len(text) // CHARACTERS for text in texts], READ):
        features = model.preprocess([texts[place] for place in read])
        if not _in_rows(features):
            for part in _alike([len(texts[place]) // CHARACTERS for place in read], TOKENS):
                places = [read[place] for place in part]
                yield places, model.preprocess([texts[place] for place in places])
            continue
        lengths = features["attention_mask"].sum(dim=1).tolist()
        for part in _alike(lengths, room(sum(lengths))):
            yield [read[place] for place in part], _without_padding(features, part)


def _alike(lengths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Places of texts that go together, longest first: about as long as each other, and padded no more than `room`."""
    places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    begin = 0
    while begin < len(places):
        end = begin + max(1, room // max(1, lengths[places[begin]]))
        yield places[begin:end]
        begin = end


def _in_rows(features: Mapping[str, Any]) -> bool:
    """Whether every feature has a row for each text, as long as the attention mask's."""
    mask = features.get("attention_mask")
    return mask is not None and all(value.shape == mask.shape for value in features.values() if hasattr(value, "shape"))


def _without_padding(features: Mapping[str, Any], places: list[int]) -> dict[str, Any]:
    """The features of some texts, without the columns that pad all of these."""
    if len(features["attention_mask"]) == 1:  # nothing to cut, and a service asks one at a time
        return dict(features)
    used = features["attention_mask"][places].any(dim=0)
    return {name: value[places][:, used] if hasattr(value, "to") else value for name, value in features.items()}


def _rows(model: Any, features: Mapping[str, Any]) -> NDArray[np.float32]:
    """The unit rows of a few texts, by torch."""
    import torch

    inputs = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in features.items()}
    with torch.inference_mode():
        return np.asarray(unit_rows(model, inputs).cpu().numpy(), dtype=np.float32)


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

    loaded: dict[bytes, NDArray[np.float32]] = {}
    for file in sorted(folder.glob("*.safetensors")) if wanted else ():
        try:
            tensors = load_file(file)
            digests, vectors = tensors["digests"].tobytes(), tensors["vectors"]
        except (OSError, KeyError, SafetensorError):  # cut short, or thrown out by another process: embedded again
            continue
        rows = {digests[n * _DIGEST : (n + 1) * _DIGEST]: n for n in range(len(vectors))}
        loaded |= {digest: vectors[row] for digest, row in rows.items() if digest in wanted}
    return loaded


def _keep(folder: Path, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(b"".join(digests)).hexdigest()[:24]
    part = folder / f"{name}.{os.getpid()}.partial"
    digest_bytes = np.frombuffer(b"".join(digests), dtype=np.uint8)
    save_file({"digests": digest_bytes, "vectors": np.ascontiguousarray(vectors)}, part)
    part.rename(folder / f"{name}.safetensors")
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
