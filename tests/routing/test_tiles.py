from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symmoe.routing.embedding import SentenceEmbedder, load_sentence_model
from symmoe.routing.tiles import TOKENS, Tiles

openvino = pytest.importorskip("openvino", reason="OpenVINO is installed on x86 only")
TEXTS = ["a cat", "the cat sat on a mat " * 9, "mat", "red red " * 60, "", "a b c d"]


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says that the processor has tiles: without, OpenVINO computes in 32 bits all the same."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directories of models of two small layers; the number seeds their weights."""

    @cache
    def made(seed: int, kind: str = "Bert") -> Path:
        import torch
        import transformers
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.pre_tokenizers import Whitespace

        folder = tmp_path_factory.mktemp("bert")
        words = ["[PAD]", "[unused]", "[UNK]", *"abcd", "the", "cat", "sat", "on", "mat", "red"]
        tokenizer = Tokenizer(WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        torch.manual_seed(seed)
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        others = {"pad_token_id": 0} | ({"embedding_size": 32} if kind in ("Albert", "Electra") else {})
        config = getattr(transformers, f"{kind}Config")(vocab_size=len(words), initializer_range=0.3, **size, **others)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=128
        ).save_pretrained(folder)
        read = Transformer(str(folder))
        SentenceTransformer(modules=[read, Pooling(32, "mean")], device="cpu").save(str(folder / "sentences"))
        return folder / "sentences"

    return made


def embedder(directory: Path, kept: Path) -> SentenceEmbedder:
    return SentenceEmbedder(lambda: directory, lambda _: kept / "compiled")


def by_torch(directory: Path) -> Any:
    return load_sentence_model(directory).encode(TEXTS, normalize_embeddings=True)


def far(rows: Any, others: Any) -> float:
    """The greatest distance of a text's two rows."""
    return float(np.linalg.norm(rows - others, axis=1).max())


def never(*_: Any, **__: Any) -> Any:
    raise RuntimeError("unknown operation")


def test_a_model_is_converted_once_and_read_by_the_next_process(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embedder(small(0), tmp_path).embed(TEXTS)
    assert far(first, by_torch(small(0))) < 0.03
    assert [each.name for each in tmp_path.iterdir()] == ["compiled"]
    monkeypatch.setattr(openvino, "convert_model", never)
    monkeypatch.setattr("sentence_transformers.SentenceTransformer.forward", forward_of_probes())
    again = embedder(small(0), tmp_path)
    assert far(again.embed(TEXTS), first) < 1e-5


def forward_of_probes() -> Any:
    """Lets torch run once, for the comparison."""
    from sentence_transformers import SentenceTransformer

    forward, runs = SentenceTransformer.forward, [0]

    def once(self: Any, *given: Any, **named: Any) -> Any:
        runs[0] += 1
        assert runs[0] == 1, "torch embeds besides"
        return forward(self, *given, **named)

    return once


@pytest.mark.parametrize("damage", ["cut short", "another model", "no network"])
def test_a_kept_model_that_is_damaged_or_another_is_converted_anew(
    small: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    embedder(small(1 if damage == "another model" else 0), tmp_path).embed(["a"])
    weights, network = tmp_path / "compiled" / "model.bin", tmp_path / "compiled" / "model.xml"
    if damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:100])
    if damage == "no network":
        network.write_text("<net")
    assert far(embedder(small(0), tmp_path).embed(TEXTS), by_torch(small(0))) < 0.03
    assert weights.stat().st_size > 100
    assert network.stat().st_size > 100


@pytest.mark.parametrize("fault", ["no folder", "full"])
def test_a_model_that_cannot_be_kept_is_converted_for_this_process(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    kept, save = tmp_path / "cache", openvino.save_model
    if fault == "no folder":
        kept.write_text("a file")
    else:
        monkeypatch.setattr(
            openvino, "save_model", lambda network, path: never() if kept in path.parents else save(network, path)
        )
    rows = embedder(small(0), kept).embed(TEXTS)
    monkeypatch.undo()
    assert 1e-5 < far(rows, by_torch(small(0))) < 0.03
    assert kept.is_file() or not list(kept.iterdir())


def test_a_model_that_openvino_does_not_know_runs_on_torch_and_a_log_says_so(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino, "convert_model", never)
    with caplog.at_level(logging.WARNING):
        rows = embedder(small(0), tmp_path).embed(TEXTS)
    assert far(rows, by_torch(small(0))) < 1e-5
    assert "unknown operation" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_model_of_which_openvino_makes_another_runs_on_torch_and_a_log_says_so(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    embedder(small(1), tmp_path).embed(["a"])
    wrong = openvino.Core().read_model(tmp_path / "compiled" / "model.xml")
    monkeypatch.setattr(openvino, "convert_model", lambda *_, **__: wrong)
    with caplog.at_level(logging.WARNING):
        rows = embedder(small(0), tmp_path).embed(TEXTS)
    assert far(rows, by_torch(small(0))) < 1e-5
    assert "another model" in caplog.text


def test_a_text_that_fails_leaves_the_embedder_as_it_was(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = embedder(small(0), tmp_path)
    rows = asked.embed(TEXTS)
    monkeypatch.setattr("symmoe.routing.embedding.READ", 8)  # the texts are read in several blocks
    read, blocks = load_sentence_model(small(0)).__class__.preprocess, [0]

    def breaking(self: Any, texts: Any, **named: Any) -> Any:
        blocks[0] += 1
        if blocks[0] == 3:
            raise MemoryError
        return read(self, texts, **named)

    with monkeypatch.context() as patch:
        patch.setattr("sentence_transformers.SentenceTransformer.preprocess", breaking)
        with pytest.raises(MemoryError):
            asked.embed(TEXTS)
    assert far(asked.embed(TEXTS), rows) < 0.03


def test_a_text_of_no_tokens_is_all_zeros_alone_and_beside_others(small: Callable[..., Path], tmp_path: Path) -> None:
    assert not embedder(small(0), tmp_path).embed([""]).any()
    assert embedder(small(0), tmp_path).embed(["", "a cat", ""]).any(axis=1).tolist() == [False, True, False]


def test_an_architecture_that_was_not_tried_runs_on_torch(small: Callable[..., Path], tmp_path: Path) -> None:
    rows = embedder(small(0, "ModernBert"), tmp_path).embed(TEXTS)
    assert far(rows, by_torch(small(0, "ModernBert"))) < 1e-5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["Albert", "Electra", "MPNet", "Roberta", "XLMRoberta"])
def test_architectures_that_are_known_give_what_torch_gives(
    small: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    rows = embedder(small(0, kind), tmp_path).embed(TEXTS)
    assert 1e-6 < far(rows, by_torch(small(0, kind))) < 0.04
    assert [each.name for each in tmp_path.iterdir()] == ["compiled"]


def test_a_processor_without_tiles_embeds_in_32_bits(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": False})
    rows = embedder(small(0), tmp_path).embed(TEXTS)
    assert far(rows, by_torch(small(0))) < 1e-5
    assert not list(tmp_path.iterdir())


def test_a_few_texts_are_shared_out_among_cores_and_many_go_in_parts_of_a_size(
    small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder(small(0), tmp_path).embed(["a"])
    network = openvino.Core().read_model(tmp_path / "compiled" / "model.xml")
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    tiles = Tiles(network)
    assert [tiles.room(tokens) for tokens in (1, 1600, 2002, 10**6)] == [256, 400, 501, TOKENS]


def test_nobody_is_told_that_openvino_is_used() -> None:
    assert sys.modules["openvino_telemetry"] is None
