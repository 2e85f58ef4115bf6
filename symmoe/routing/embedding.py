"""Sentence embeddings through sentence-transformers, with those of recorded questions cached on disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError
from symmoe.protocols import Embedder

TOKENS = 4096
"""Tokens of the texts that are embedded together."""
READ = 32 * TOKENS
"""Tokens, by estimate, of the texts whose tokens are counted together."""
CHARACTERS = 4
"""Of a token, as a rule."""
KEPT_BYTES = 256 << 20
"""So much of embeddings is kept for each embedder; beyond it the oldest go."""
_DIGEST = 16


class SentenceEmbedder:
    """all-MiniLM-L6-v2 or any other sentence-transformers model, loaded on first use and used by one thread at a time.

    `locate` returns the model's directory, and may prepare or fetch it. The model cuts texts beyond its window (256
    tokens for MiniLM). Where the processor has tile instructions for 16-bit numbers, the model multiplies matrices in
    them, and adds and normalises in 32 bits: many texts take a third of the time of `encode` in 32 bits, at a cosine of
    at least 0.9999. In 16 bits throughout it takes as long, but twice as many questions get another first skill.
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
            model = self._loaded()
            made = list(_embedded(model, texts))
        if not made:
            return np.empty((0, model.get_embedding_dimension() or 0), dtype=np.float32)
        rows = np.concatenate([rows for _, rows in made])
        vectors = np.empty_like(rows)
        vectors[np.concatenate([places for places, _ in made])] = rows
        return vectors

    def _loaded(self) -> Any:
        if self._model is None:
            import torch

            model = load_sentence_model(self._locate())
            # public in no release yet; without tiles 32 bits are faster
            if model.device.type == "cpu" and torch.cpu._is_amx_tile_supported():
                for layer in model.modules():
                    if isinstance(layer, torch.nn.Linear):
                        layer.to(torch.bfloat16)
                    elif dict(layer.named_children()).keys() - {"dropout"} == _ATTENDS:
                        layer.register_forward_pre_hook(_halved, with_kwargs=True)
            self._model = model
        return self._model


_ATTENDS = {"query", "key", "value"}
"""What an attention layer consists of that does nothing else: one that adds its input to its output keeps its 32 bits.
"""


def _halved(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What an attention layer is given, with the hidden states in 16 bits at once: each of its three matrices would
    convert them again.
    """
    import torch

    if given:
        return (given[0].to(torch.bfloat16), *given[1:]), named
    if "hidden_states" in named:
        named = {**named, "hidden_states": named["hidden_states"].to(torch.bfloat16)}
    return given, named


def _embedded(model: Any, texts: Sequence[str]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Places of a few texts and their unit rows, until all texts are embedded.

    Texts that are embedded together are padded to the longest of them. Characters say little of how long that is:
    exam questions grouped by them are over a third padding, grouped by tokens a fiftieth. So tokens are counted first,
    where the model's features are a row of tokens for each text.
    """
    for read in _alike([len(text) // CHARACTERS for text in texts], READ):
        features = model.preprocess([texts[place] for place in read])
        if not _in_rows(features):
            for part in _alike([len(texts[place]) // CHARACTERS for place in read], TOKENS):
                places = [read[place] for place in part]
                yield places, _unit_rows(model, model.preprocess([texts[place] for place in places]))
            continue
        for part in _alike(features["attention_mask"].sum(dim=1).tolist(), TOKENS):
            yield [read[place] for place in part], _unit_rows(model, _without_padding(features, part))


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


def _unit_rows(model: Any, features: Mapping[str, Any]) -> NDArray[np.float32]:
    """Of a few texts, without what `encode` does besides, which costs a tenth of the time of one."""
    import torch

    mixed = any(weight.dtype == torch.bfloat16 for weight in model.parameters())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        inputs = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in features.items()}
        rows = torch.nn.functional.normalize(model(inputs)["sentence_embedding"].float(), dim=1)
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
    partial = folder / f"{name}.{os.getpid()}.partial"
    digest_bytes = np.frombuffer(b"".join(digests), dtype=np.uint8)
    save_file({"digests": digest_bytes, "vectors": np.ascontiguousarray(vectors)}, partial)
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
