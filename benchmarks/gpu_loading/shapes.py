"""The tensors of Llama-3-8B and of a LoRA adapter for it, whole or scaled down, and how they are packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALIGNMENT = 256
BF16 = 2
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The dimensions of a Llama; the defaults are those of the 8B model (Llama 3, arXiv 2407.21783, table 3)."""

    hidden: int = 4096
    intermediate: int = 14336
    key_value: int = 1024
    vocabulary: int = 128256
    layers: int = 32


def scaled(scale: float) -> Sizes:
    """About `scale` of the 8B model's bytes: fewer layers, and narrower ones where even one layer is too much."""
    whole, width = Sizes(), min(1.0, sqrt(32 * scale))

    def shrunk(size: float) -> int:
        return max(64, round(size / 64) * 64)

    return Sizes(
        hidden=shrunk(whole.hidden * width),
        intermediate=shrunk(whole.intermediate * width),
        key_value=shrunk(whole.key_value * width),
        vocabulary=shrunk(whole.vocabulary * scale / width),
        layers=max(1, round(whole.layers * scale)),
    )


def model(sizes: Sizes) -> Shapes:
    """Every tensor of the checkpoint, in its order there."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (sizes.vocabulary, sizes.hidden)}
    for layer in range(sizes.layers):
        for name, (out, into) in projections(sizes).items():
            shapes[f"model.layers.{layer}.{name}.weight"] = (out, into)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (sizes.hidden,)
    return shapes | {"model.norm.weight": (sizes.hidden,), "lm_head.weight": (sizes.vocabulary, sizes.hidden)}


def adapter(sizes: Sizes, rank: int) -> Shapes:
    """The matrices of a LoRA adapter of all seven projections of every layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(sizes.layers):
        for name, (out, into) in projections(sizes).items():
            shapes[f"model.layers.{layer}.{name}.lora_A"] = (rank, into)
            shapes[f"model.layers.{layer}.{name}.lora_B"] = (out, rank)
    return shapes


def projections(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Rows and columns of each Linear of a layer."""
    return {
        "self_attn.q_proj": (sizes.hidden, sizes.hidden),
        "self_attn.k_proj": (sizes.key_value, sizes.hidden),
        "self_attn.v_proj": (sizes.key_value, sizes.hidden),
        "self_attn.o_proj": (sizes.hidden, sizes.hidden),
        "mlp.gate_proj": (sizes.intermediate, sizes.hidden),
        "mlp.up_proj": (sizes.intermediate, sizes.hidden),
        "mlp.down_proj": (sizes.hidden, sizes.intermediate),
    }


class Packing:
    """bf16 tensors one after the other in one buffer, each at a multiple of 256 bytes."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = dict(shapes)
        self.offsets: dict[str, int] = {}
        end = 0
        for name, shape in self.shapes.items():
            self.offsets[name] = -(-end // ALIGNMENT) * ALIGNMENT
            end = self.offsets[name] + prod(shape) * BF16
        self.nbytes = -(-end // ALIGNMENT) * ALIGNMENT

    @property
    def payload(self) -> int:
        """The bytes of the tensors alone."""
        return sum(prod(shape) * BF16 for shape in self.shapes.values())

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a uint8 buffer of `nbytes`; writing to one writes to the buffer."""
        import torch

        views = {}
        for name, shape in self.shapes.items():
            begin = self.offsets[name]
            views[name] = buffer[begin : begin + prod(shape) * BF16].view(torch.bfloat16).view(shape)
        return views
