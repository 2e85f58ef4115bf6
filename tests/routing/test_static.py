from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from symmoe.errors import CheckpointError
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
