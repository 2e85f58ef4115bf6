"""Weights of linear layers as eight-bit integers: half the bytes to store, and to read for every token on a CPU.

Each row of weights has one scale, and each token's activations get theirs as they come (W8A8; SmoothQuant, arXiv
2211.10438, calls it per-channel and per-token). The format is `compressed-tensors`, which vLLM reads. Embeddings, norms
and the output layer stay as they are: vLLM quantises no output layer in this format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LINEAR = re.compile(r"\.(q|k|v|o|gate|up|down)_proj\.weight$")
_LARGEST = 127
_LEAST_SCALE = 1e-8
_SCHEME = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def quantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with its projections' weights [out, in] as int8 and a `weight_scale` [out, 1] beside each.

    A weight is its integer times its row's scale, off by at most half a scale plus the rounding of the scale to the
    checkpoint's type.
    """
    import torch

    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not _LINEAR.search(name):
            converted[name] = tensor
            continue
        exact = tensor.float()
        scale = (exact.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(_LEAST_SCALE).to(tensor.dtype)
        whole = (exact / scale.float()).round_().clamp_(-_LARGEST, _LARGEST)
        converted[name], converted[f"{name}_scale"] = whole.to(torch.int8), scale
    return converted


def declare_quantised(config: Path) -> None:
    """Add the quantisation to a model's `config.json`."""
    document = json.loads(config.read_text(encoding="utf-8"))
    document["quantization_config"] = _SCHEME
    config.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
