"""Small random models, and images made of them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from symmoe.loading.packed.layout import Layout
from symmoe.loading.packed.manifest import Manifest
from symmoe.loading.packed.writing import write_pack

from ..conftest import lora, write_adapter

HIDDEN, CHUNK = 16, 4096
CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "rms_norm_eps": 1e-5}
Q_PROJ = "model.layers.0.self_attn.q_proj"


def write_model(directory: Path, *files: Mapping[str, torch.Tensor], **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for number, tensors in enumerate(files):
        save_file(dict(tensors), directory / f"model-{number}.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG | config), encoding="utf-8")
    return directory


def llama(layers: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors named as a Llama's: projections that are multiples of 256 bytes, norms that are not."""
    numbers = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (40, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.{side}_proj.weight": (rows, HIDDEN) for side, rows in zip("qkv", (16, 8, 8), strict=True)
        }
        shapes |= {f"{at}.mlp.{name}_proj.weight": (32, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (HIDDEN, 32), f"{at}.input_layernorm.weight": (HIDDEN,)}
    return {name: torch.randn(shape, generator=numbers).bfloat16() for name, shape in shapes.items()}


def image_of(layout: Layout, digests: bool = False) -> bytearray:
    """The image in memory that held something else before."""
    buffer = bytearray(b"\xa5" * layout.nbytes)
    layout.write_into(memoryview(buffer), digests=digests)
    return buffer


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", llama())


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter that changes one weight of the model."""
    return write_adapter(tmp_path / "adapter", lora(Q_PROJ, 16, HIDDEN))


@pytest.fixture
def pack_file(model: Path, tmp_path: Path) -> Path:
    """A pack of several chunks."""
    path = tmp_path / "packs" / "one.pack"
    write_pack(Layout.of(str(model), chunk_bytes=CHUNK), path)
    return path


def headed(document: bytes, data: bytes, version: int = 1, alignment: int = 256, grown: int = 0) -> bytes:
    """An image with this manifest, whose header vouches for it."""
    size = -(-(64 + len(document)) // 4096) * 4096
    padded = document.ljust(size - 64)
    facts = struct.pack("<8sIIQQ", b"SYMMOEPK", version, alignment, len(padded), size + len(data) + grown)
    return facts + hashlib.sha256(facts + padded).digest() + padded + data


def differing(one: Manifest, other: Manifest) -> tuple[str, ...]:
    """The tensors of `one` whose bytes need not be those that `other` has under the same name."""
    theirs = other.tags()
    return tuple(tensor.name for tensor in one.tensors if theirs.get(tensor.name) != tensor.tag)
