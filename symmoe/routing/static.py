"""A static embedder: the mean of a vector for each token. Microseconds a question, and neither torch nor a GPU."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError

DIMENSIONS = 256
SMOOTHING = 1e-4
"""The `a` of smooth inverse frequency, `a / (a + p)`: common tokens count for little."""
COMMON, RARE = 500, 5000
"""The ranks given to single digits and letters, and to single characters beyond ASCII."""
_BATCH = 1024
_KEPT_WORDS = 1 << 16
_WORD = re.compile(r"[a-z0-9]+|[^a-z0-9\s]")
_SPACES = str.maketrans("\n\r\t", "   ")

Floats = NDArray[np.float32]


class StaticEmbedder:
    """A model2vec model, loaded on first use. `locate` returns its directory, and may distil the model first."""

    def __init__(self, locate: Callable[[], Path]) -> None:
        self._locate = locate
        self._model: Any = None
        self._words: _Words | None = None

    def embed(self, texts: Sequence[str]) -> Floats:
        """Embed `n` texts as an `[n, d]` array of unit rows; a text without any known token becomes zeros."""
        model, words = self._loaded(), self._words
        if words is None:
            return _encoded(model, texts)
        plain = [words.splits(text) for text in texts]
        if all(plain):
            return words.embed(texts)
        rows = np.empty((len(texts), model.dim), dtype=np.float32)
        rows[plain] = words.embed(list(compress(texts, plain)))
        others = [not each for each in plain]
        rows[others] = _encoded(model, list(compress(texts, others)))
        return rows

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens embedding these texts reads in all."""
        return sum(map(len, self._loaded().tokenize(list(texts))))

    def _loaded(self) -> Any:
        if self._model is None:
            model = _load(self._locate())
            self._words = _Words(model) if _Words.serves(model) else None
            self._model = model
        return self._model


class _Words:
    """Embeds English as the model does, in a seventh of its time: a word becomes tokens once, however often it is read.

    That is possible where a tokenizer takes text apart at spaces and punctuation, as BERT's does, before it reads a
    word, and the text is in ASCII. All that is kept are the tokens of the latest words.
    """

    def __init__(self, model: Any) -> None:
        self._tokenizer, self._vectors, self._unknown = model.tokenizer, model.embedding, model.unk_token_id
        self._most = model.max_length or 0
        self._characters = self._most * model.median_token_length or None
        self._marks = tuple(token.content for token in model.tokenizer.get_added_tokens_decoder().values())
        self._known: dict[str, bytes] = {}

    @staticmethod
    def serves(model: Any) -> bool:
        """Whether a model's texts can be taken apart like this."""
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        normalizer, splitter = model.tokenizer.normalizer, model.tokenizer.pre_tokenizer
        bert = isinstance(normalizer, BertNormalizer) and isinstance(splitter, BertPreTokenizer)
        plain = model.token_mapping is None and model.weights is None and model.embedding.dtype == np.float32
        return bool(bert and normalizer.lowercase and normalizer.clean_text and plain and model.normalize)

    def splits(self, text: str) -> bool:
        """Whether a text can: it is ASCII without control characters, and holds no token that is spelled out."""
        printable = text.isascii() and (text.isprintable() or text.translate(_SPACES).isprintable())
        return printable and not any(mark in text for mark in self._marks)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Embed `n` texts that `splits` let pass as an `[n, d]` array of unit rows."""
        from scipy.sparse import csr_matrix

        rows = self._tokens(texts)
        ends = np.cumsum([0, *(len(row) // 4 for row in rows)])
        tokens = np.frombuffer(b"".join(rows), dtype=np.int32)
        counted = (tokens != self._unknown).astype(np.float32)
        sums = csr_matrix((counted, tokens, ends), shape=(len(rows), len(self._vectors))) @ self._vectors
        return np.asarray(sums / (np.linalg.norm(sums, axis=1, keepdims=True) + 1e-32), dtype=np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[bytes]:
        """The tokens of texts, four bytes each."""
        words_by_text = [_WORD.findall(text[: self._characters].lower()) for text in texts]
        known = self._known
        fresh = [word for word in {word for words in words_by_text for word in words} if word not in known]
        if len(known) + len(fresh) > _KEPT_WORDS:  # another thread may be reading the one that there was
            self._known = known = {}
            fresh = list({word for words in words_by_text for word in words})
        encoded = self._tokenizer.encode_batch_fast(fresh, add_special_tokens=False)
        known.update(
            (word, np.array(each.ids, dtype=np.int32).tobytes()) for word, each in zip(fresh, encoded, strict=True)
        )
        most = 4 * self._most or None
        return [b"".join(map(known.__getitem__, words))[:most] for words in words_by_text]


def _encoded(model: Any, texts: Sequence[str]) -> Floats:
    return np.asarray(model.encode(list(texts), use_multiprocessing=False), dtype=np.float32)


def distilled(teacher: Path, out: Path) -> Path:
    """The directory `out`, distilled from a sentence-transformers model if missing (half a minute for MiniLM).

    The recipe is Model2Vec's (Tulkens and van Dongen 2024): each token of the vocabulary is embedded by itself, reduced
    by PCA, and weighted by smooth inverse frequency, taking tokens to be in order of frequency. The vectors are then
    shifted by the mean text, so that unrelated texts have a cosine near 0.
    """
    if (out / "model.safetensors").is_file():
        return out
    from model2vec import StaticModel

    tokens, tokenizer = _token_vectors(teacher)
    frequency = _zipf(tokenizer)
    weighed = _reduced(tokens) * (SMOOTHING / (SMOOTHING + frequency))[:, None]
    weighed -= frequency @ weighed
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    StaticModel(vectors=weighed, tokenizer=tokenizer, normalize=True).save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    return out


def _token_vectors(teacher: Path) -> tuple[Floats, Any]:
    """What the teacher makes of each token of its vocabulary alone, `[tokens, d]`, and its tokenizer."""
    import torch

    from symmoe.routing.embedding import load_sentence_model

    model = load_sentence_model(teacher)
    tokenizer = model.tokenizer
    before, after = tokenizer.cls_token_id, tokenizer.sep_token_id
    vectors: list[Floats] = []
    for start in range(0, len(tokenizer), _BATCH):
        ids = torch.tensor([[before, token, after] for token in range(start, min(start + _BATCH, len(tokenizer)))])
        with torch.inference_mode():
            made = model({"input_ids": ids.to(model.device), "attention_mask": torch.ones_like(ids).to(model.device)})
        vectors.append(made["sentence_embedding"].float().cpu().numpy())
    table = np.concatenate(vectors)
    table[tokenizer.all_special_ids] = 0.0
    return table, tokenizer.backend_tokenizer


def _reduced(tokens: Floats) -> Floats:
    from sklearn.decomposition import PCA

    size = min(DIMENSIONS, *tokens.shape)
    return np.asarray(PCA(size, svd_solver="covariance_eigh").fit_transform(tokens), dtype=np.float32)


def _zipf(tokenizer: Any) -> Floats:
    """The probability of each token by Zipf's law, words being in order of frequency in the vocabulary.

    Single characters stand before them in no order: punctuation is taken to be as common as the commonest word, digits
    and letters as a common word, all others to be rare.
    """
    ranks = np.empty(tokenizer.get_vocab_size(), dtype=np.float32)
    words = 0
    for token, place in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = len(token) > 1 and not token.startswith("[")
        words += word
        ranks[place] = words if word else _rank_alone(token)
    return np.asarray((1 / (ranks + 1)) / (1 / (np.arange(words) + 2)).sum(), dtype=np.float32)


def _rank_alone(token: str) -> int:
    if not token.isascii():
        return RARE
    return COMMON if token.isalnum() else 1


def _load(directory: Path) -> Any:
    from model2vec import StaticModel
    from safetensors import SafetensorError

    try:
        return StaticModel.from_pretrained(str(directory))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: not a static model ({error})") from error
