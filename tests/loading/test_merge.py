from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from symmoe.errors import CheckpointError
from symmoe.loading.headers import INDEX
from symmoe.loading.merge import base_name, lora_scale, merged_weights, write_merged

from .conftest import IN, OUT, TARGET, lora, write_adapter


def test_without_an_adapter_the_weights_are_those_of_all_files_of_the_base(base: Path) -> None:
    weights = dict(merged_weights(str(base), None))
    assert {name: (tuple(w.shape), w.dtype) for name, w in weights.items()} == {
        f"{TARGET}.weight": ((OUT, IN), torch.bfloat16),
        "model.norm.weight": ((IN,), torch.bfloat16),
        "lm_head.weight": ((3, IN), torch.float32),
    }


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 2, "lora_alpha": 3}, 1.5),
        ({"r": 2, "lora_alpha": 3, "use_rslora": True}, 3 / math.sqrt(2)),
        ({"r": 2, "lora_alpha": 2}, 1.0),
    ],
)
def test_a_merged_weight_is_the_base_plus_the_scaled_product(
    base: Path, tmp_path: Path, config: dict[str, Any], scale: float
) -> None:
    tensors = lora()
    down, up = tensors.values()
    before = dict(merged_weights(str(base), None))
    after = dict(merged_weights(str(base), str(write_adapter(tmp_path / "adapter", tensors, **config))))
    wanted = before[f"{TARGET}.weight"].float() + scale * (up @ down)
    torch.testing.assert_close(after[f"{TARGET}.weight"], wanted.bfloat16(), rtol=2**-8, atol=0)
    assert not torch.equal(after[f"{TARGET}.weight"], before[f"{TARGET}.weight"])


def test_tensors_that_the_adapter_does_not_name_stay_bit_for_bit(base: Path, adapter: Path) -> None:
    before, after = dict(merged_weights(str(base), None)), dict(merged_weights(str(base), str(adapter)))
    assert list(after) == list(before)
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])


def test_merging_changes_nothing_on_disk(base: Path, adapter: Path) -> None:
    before = [file.read_bytes() for file in sorted(base.iterdir())]
    dict(merged_weights(str(base), str(adapter)))
    assert [file.read_bytes() for file in sorted(base.iterdir())] == before


def test_an_adapter_naming_a_tensor_that_the_base_lacks_is_refused_by_the_tensors_name(
    base: Path, tmp_path: Path
) -> None:
    stranger = write_adapter(tmp_path / "stranger", lora("model.layers.9.mlp.up_proj"))
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.layers\.9\.mlp\.up_proj\.weight'"):
        dict(merged_weights(str(base), str(stranger)))


@pytest.mark.parametrize("option", ["use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"])
def test_variants_of_lora_that_a_merge_would_get_wrong_are_refused_by_name(option: str) -> None:
    with pytest.raises(CheckpointError, match=option):
        lora_scale({"r": 2, "lora_alpha": 3, option: {"q_proj": 4}}, Path("here"))


def test_empty_options_are_no_variants() -> None:
    assert lora_scale({"r": 4, "lora_alpha": 8, "rank_pattern": {}, "modules_to_save": None}, Path("here")) == 2.0


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_lora_tensor_is_named_after_the_base_tensor_that_it_changes(side: str) -> None:
    assert base_name(f"base_model.model.{TARGET}.lora_{side}.weight") == f"{TARGET}.weight"


def test_a_written_merge_is_a_whole_checkpoint_of_one_file(base: Path, adapter: Path, tmp_path: Path) -> None:
    shards = {file.name: file.name for file in base.glob("*.safetensors")}
    (base / INDEX).write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    written = write_merged(str(base), str(adapter), tmp_path / "merged")
    assert [file.name for file in written.glob("*.safetensors")] == ["model.safetensors"]
    assert (written / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert not (written / INDEX).exists()  # it would name files that are not there
    wanted = dict(merged_weights(str(base), str(adapter)))
    found = load_file(written / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
