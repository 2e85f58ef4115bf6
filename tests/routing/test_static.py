from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Whitespace

from symmoe.errors import CheckpointError
from symmoe.routing import static
from symmoe.routing.static import StaticEmbedder, distilled


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "red": 1, "blue": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.array([[0, 0], [1, 0], [0, 2]], dtype=np.float32)
    StaticModel(vectors=vectors, tokenizer=tokenizer, normalize=True).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_text_is_the_mean_of_its_tokens_as_a_unit_row(model: Path) -> None:
    rows = StaticEmbedder(lambda: model).embed(["red", "blue blue red", "red red red"])
    # the mean of (0, 2) twice and (1, 0) points to (1, 4) / √17
    assert rows == pytest.approx(np.array([[1, 0], [1 / 17**0.5, 4 / 17**0.5], [1, 0]]), abs=1e-3)
    assert rows.dtype == np.float32


def test_a_text_of_no_known_token_is_all_zeros(model: Path) -> None:
    assert StaticEmbedder(lambda: model).embed(["xyzzy", ""]).tolist() == [[0, 0], [0, 0]]


def test_a_model_is_located_once_and_only_when_first_asked(model: Path) -> None:
    located: list[Path] = []

    def locate() -> Path:
        located.append(model)
        return model

    embedder = StaticEmbedder(locate)
    assert located == []
    embedder.embed(["red"])
    embedder.embed(["blue"])
    assert located == [model]


def test_a_directory_that_holds_no_static_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        StaticEmbedder(lambda: tmp_path / "none").embed(["text"])
    assert str(tmp_path / "none") in str(caught.value)


def test_a_damaged_static_model_is_refused_by_name(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="model"):
        StaticEmbedder(lambda: model).embed(["text"])


def test_a_model_that_was_distilled_is_not_distilled_again(model: Path) -> None:
    before = (model / "model.safetensors").read_bytes()
    assert distilled(Path("no teacher is asked"), model) == model
    assert (model / "model.safetensors").read_bytes() == before


@pytest.fixture(scope="module")
def of_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer takes text apart as BERT's does; of the digits it lacks the nine."""
    ones = [*string.ascii_lowercase, *string.digits[:9], *string.punctuation]
    pieces = ["[PAD]", "[UNK]", *ones, *(f"##{one}" for one in ones), "red", "blue", "##ish", "é", "##é"]
    tokenizer = Tokenizer(WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    vectors = np.random.default_rng(0).standard_normal((len(pieces), 8)).astype(np.float32)
    model = StaticModel(vectors=vectors, tokenizer=tokenizer, normalize=True, max_length=40)
    model.save_pretrained(folder := tmp_path_factory.mktemp("model"))
    return folder


_PARTS = st.sampled_from(
    ["red", "Blue", "redish", "don't", "a_b", "x9", "[UNK]", "[", "\t", "\r\n", "\x00", "\x0b", "é", "日本", "$5.00"]
)


@given(st.lists(st.lists(_PARTS | st.text(max_size=3), max_size=60).map(" ".join), min_size=1, max_size=8))
@settings(deadline=None)
def test_words_that_are_read_once_give_the_vectors_of_the_model_itself(of_words: Path, texts: list[str]) -> None:
    rows = StaticEmbedder(lambda: of_words).embed(texts)
    model = StaticModel.from_pretrained(str(of_words))
    assert rows == pytest.approx(model.encode(texts, use_multiprocessing=False), abs=1e-5)


def test_a_word_becomes_tokens_once_and_no_more_words_are_kept_than_there_is_room_for(
    of_words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "_KEPT_WORDS", 3)
    embedder = StaticEmbedder(lambda: of_words)
    first = embedder.embed(["red blue red", "red"])
    words = embedder._words
    assert words is not None
    assert set(words._known) == {"red", "blue"}
    assert (embedder.embed(["greenish yellow"]) != 0).any()
    assert set(words._known) == {"greenish", "yellow"}
    assert embedder.embed(["red blue red", "red"]) == pytest.approx(first)
