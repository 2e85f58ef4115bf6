from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symmoe.loading.quantise import declare_quantised, quantised

PROJECTION = "model.layers.0.mlp.up_proj.weight"


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1e4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_weight_is_its_integer_times_its_rows_scale(seed: int, size: float, dtype: torch.dtype) -> None:
    weights = (size * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))).to(dtype)
    found = quantised({PROJECTION: weights})
    whole, scale = found[PROJECTION], found[f"{PROJECTION}_scale"]
    assert (whole.dtype, scale.dtype, scale.shape) == (torch.int8, dtype, (5, 1))
    off = (whole.float() * scale.float() - weights.float()).abs()
    rounded = 127 * scale.float() * torch.finfo(dtype).eps  # a scale rounded down cuts the largest weight off
    assert bool((off <= scale.float() / 2 * (1 + 1e-4) + rounded).all())


def test_a_row_of_zeros_stays_zeros() -> None:
    found = quantised({PROJECTION: torch.zeros(2, 3, dtype=torch.bfloat16)})
    assert bool((found[PROJECTION] == 0).all())
    assert bool(found[f"{PROJECTION}_scale"].isfinite().all())


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.bias"]
)
def test_what_is_no_projections_weight_stays_as_it_is(name: str) -> None:
    kept = torch.ones(2, 2)
    assert quantised({name: kept}) == {name: kept}


def test_the_configuration_says_how_the_weights_are_read_and_keeps_the_rest(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "qwen2"}', encoding="utf-8")
    declare_quantised(config)
    told = json.loads(config.read_text(encoding="utf-8"))
    assert told["model_type"] == "qwen2"
    assert told["quantization_config"]["quant_method"] == "compressed-tensors"
    assert told["quantization_config"]["ignore"] == ["lm_head"]
