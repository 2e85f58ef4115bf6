from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from symmoe.errors import CheckpointError
from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from symmoe.loading.sources import MANIFEST, sha256_of
from symmoe.loading.verify import CARD, trained_on, verify_adapter, verify_model

from .conftest import IN, OUT, RANK, lora, write_adapter


def named(*paths: Path | str) -> str:
    return "^" + re.escape(str(Path(*paths)))


def write_card(adapter: Path, **facts: Any) -> None:
    (adapter / CARD).write_text(json.dumps(facts), encoding="utf-8")


def test_a_whole_model_and_an_adapter_that_fits_it_pass(base: Path, adapter: Path) -> None:
    verify_model(base)
    write_card(adapter, sha256=sha256_of(adapter / ADAPTER_WEIGHTS))
    verify_adapter(adapter, base)


def test_a_card_without_a_checksum_is_no_reason_to_refuse(base: Path, adapter: Path) -> None:
    write_card(adapter, recipe={})
    verify_adapter(adapter, base)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_truncated_file_is_refused_by_name(base: Path, adapter: Path, kept: int) -> None:
    for directory, name in ((adapter, ADAPTER_WEIGHTS), (base, "model-00002-of-00002.safetensors")):
        file = directory / name
        file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=named(adapter, ADAPTER_WEIGHTS) + ": corrupt or truncated"):
        verify_adapter(adapter, base)
    with pytest.raises(CheckpointError, match=named(base, "model-00002-of-00002.safetensors") + ": corrupt or trunc"):
        verify_model(base)


def test_a_flipped_byte_is_found_by_the_checksum_of_the_card(base: Path, adapter: Path) -> None:
    file = adapter / ADAPTER_WEIGHTS
    write_card(adapter, sha256=sha256_of(file))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=named(file) + ".*was altered"):
        verify_adapter(adapter, base)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "last.ckpt", "model.pth"])
def test_a_pickle_checkpoint_is_refused_by_name_and_never_read(tmp_path: Path, base: Path, name: str) -> None:
    directory = tmp_path / "pickled"
    directory.mkdir()
    (directory / name).write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(CheckpointError, match=named(directory, name) + ": a pickle checkpoint"):
        verify_model(directory)
    with pytest.raises(CheckpointError, match=named(directory, name) + ": a pickle checkpoint"):
        verify_adapter(directory, base)
    assert not (tmp_path / "ran").exists()


def test_a_directory_without_weights_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    with pytest.raises(CheckpointError, match=named(tmp_path) + ": no safetensors"):
        verify_model(tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(CheckpointError, match=named(tmp_path, "bare") + ": no safetensors"):
        verify_adapter(tmp_path / "bare", base)


def test_a_missing_adapter_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    with pytest.raises(CheckpointError, match=named(tmp_path, "none") + ": no such adapter directory"):
        verify_adapter(tmp_path / "none", base)


@pytest.mark.parametrize(
    "tensors",
    [lora(columns=IN + 1), lora(rows=OUT + 1), lora("model.layers.1.self_attn.q_proj"), lora("model.norm")],
    ids=["wider", "taller", "deeper", "a vector"],
)
def test_an_adapter_for_another_base_is_refused_by_name(
    tmp_path: Path, base: Path, tensors: dict[str, torch.Tensor]
) -> None:
    adapter = write_adapter(tmp_path / "other", tensors)
    with pytest.raises(CheckpointError, match=named(adapter, ADAPTER_WEIGHTS) + ": made for another base: .*lora_"):
        verify_adapter(adapter, base)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"peft_type": "IA3", "r": 2, "lora_alpha": 3}', "peft_type is 'IA3', not 'LORA'"),
        ("{}", "peft_type is None, not 'LORA'"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        (None, "cannot be read"),
    ],
)
def test_a_config_that_is_not_one_of_lora_is_refused_by_name(
    base: Path, adapter: Path, content: str | None, said: str
) -> None:
    config = adapter / ADAPTER_CONFIG
    if content is None:
        config.unlink()
    else:
        config.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=named(config) + f": {said}"):
        verify_adapter(adapter, base)


def test_a_variant_of_lora_that_cannot_be_merged_is_refused_before_anything_is_loaded(
    tmp_path: Path, base: Path
) -> None:
    adapter = write_adapter(tmp_path / "dora", lora(), use_dora=True)
    with pytest.raises(CheckpointError, match=named(adapter) + ".*use_dora"):
        verify_adapter(adapter, base)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_model_without_a_readable_config_is_refused_by_name(base: Path, content: str | None) -> None:
    (base / "config.json").unlink()
    if content is not None:
        (base / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=named(base, "config.json")):
        verify_model(base)


def test_a_config_whose_rank_is_not_that_of_the_tensors_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(CheckpointError):
        verify_adapter(write_adapter(tmp_path / "rank", lora(), r=RANK * 2), base)


@pytest.mark.parametrize("missing", ["r", "lora_alpha"])
def test_a_config_without_rank_or_alpha_is_refused(base: Path, adapter: Path, missing: str) -> None:
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    del config[missing]
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError):
        verify_adapter(adapter, base)


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_an_adapter_that_lacks_one_half_of_a_product_is_refused(tmp_path: Path, base: Path, side: str) -> None:
    half = {name: tensor for name, tensor in lora().items() if side in name}
    with pytest.raises(CheckpointError):
        verify_adapter(write_adapter(tmp_path / "half", half), base)


def test_a_model_that_lacks_one_of_the_files_in_its_index_is_refused(base: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00003-of-00003.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError):
        verify_model(base)


def test_a_prepared_model_that_was_altered_since_is_refused_by_name(base: Path) -> None:
    weights = sorted(base.glob("*.safetensors"))[0]
    (base / MANIFEST).write_text(json.dumps({"sha256": sha256_of(weights)}), encoding="utf-8")
    verify_model(base)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=named(weights) + ".*altered"):
        verify_model(base)


def test_an_adapter_says_what_it_was_trained_on(tmp_path: Path) -> None:
    assert trained_on(write_adapter(tmp_path / "one", lora(), base_model_name_or_path="org/base")) == "org/base"
    assert trained_on(write_adapter(tmp_path / "two", lora(), base_model_name_or_path=None)) == ""
