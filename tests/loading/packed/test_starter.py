"""Real weights: the starter pool's base and one of its adapters."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.loading.lanes import ExpertWeights
from symmoe.loading.merge import merged_weights
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import FUSIONS, Layout
from symmoe.loading.packed.writing import write_pack

from .conftest import differing, same_bits


@pytest.fixture(scope="module")
def weights() -> ExpertWeights:
    return Assembly(read_pool("tiny")).weights("arithmetic")


@pytest.fixture(scope="module")
def layout(weights: ExpertWeights) -> Layout:
    return Layout.of(weights.model, weights.adapter)


def test_the_image_of_a_specialist_is_what_merging_gives(weights: ExpertWeights, layout: Layout) -> None:
    memory = mmap.mmap(-1, layout.nbytes)
    layout.write_into(memoryview(memory))
    packed = dict(PackedCheckpoint.from_buffer(memoryview(memory)).tensors())
    count = 0
    for name, wanted in merged_weights(weights.model, weights.adapter):
        assert same_bits(packed[name], wanted), name
        count += 1
    assert count == len(packed) == 272


def test_what_vllm_fuses_is_one_view_in_every_layer(layout: Layout) -> None:
    for layer in range(30):
        for part, fused in (("self_attn", "qkv_proj"), ("mlp", "gate_up_proj")):
            names = [f"model.layers.{layer}.{part}.{member}.weight" for member in FUSIONS[fused]]
            assert layout.manifest.adjacent(names), names


def test_a_specialist_shares_with_its_base_what_its_adapter_leaves_alone(
    weights: ExpertWeights, layout: Layout
) -> None:
    changed = differing(layout.manifest, Layout.of(weights.model).manifest)
    assert len(changed) == 140
    assert all(int(name.split(".")[2]) >= 10 for name in changed)


def test_a_pack_of_real_weights_verifies(layout: Layout, tmp_path: Path) -> None:
    write_pack(layout, tmp_path / "arithmetic.pack")
    with PackedCheckpoint.open(tmp_path / "arithmetic.pack", "full") as packed:
        assert packed.tensor("model.embed_tokens.weight").shape == torch.Size((49152, 576))
    (tmp_path / "arithmetic.pack").unlink()
