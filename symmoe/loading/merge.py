"""Merging a LoRA adapter into its base: `W + (alpha / r) · B·A`, tensor by tensor, without a copy of the base."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symmoe.errors import CheckpointError

if TYPE_CHECKING:
    import torch

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")


def merged_weights(model: str, adapter: str | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint directory `model` in its own dtype, with `adapter` merged in where given.

    The product is computed in fp32 and rounded once. Raises `CheckpointError` if the adapter names a tensor that the
    base does not have.
    """
    from safetensors import safe_open

    updates = _updates(Path(adapter)) if adapter else {}
    for file in sorted(Path(model).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a safetensors handle is not a mapping)
                weight = tensors.get_tensor(name)
                update = updates.pop(name, None)
                yield name, weight if update is None else _merge(weight, *update)
    if updates:
        raise CheckpointError(f"{adapter}: the base has no tensor {next(iter(updates))!r}")


def lora_scale(config: dict[str, Any], where: Path) -> float:
    """The factor of an adapter's product; `CheckpointError` for variants of LoRA that a merge would get wrong."""
    for option in _UNSUPPORTED:
        if config.get(option):
            raise CheckpointError(f"{where}: adapters with {option} are not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(
            f"{where}: its config gives no usable rank and alpha (r: {rank!r}, lora_alpha: {alpha!r})"
        )
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def base_name(lora_key: str) -> str:
    """The base tensor that a LoRA tensor changes: `base_model.model.X.lora_A.weight` changes `X.weight`."""
    return lora_key.removeprefix(_PREFIX).replace(".lora_A.weight", ".weight").replace(".lora_B.weight", ".weight")


def _updates(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    from safetensors.torch import load_file

    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    scale = lora_scale(config, adapter)
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    downs = {base_name(key): tensor for key, tensor in tensors.items() if ".lora_A." in key}
    ups = {base_name(key): tensor for key, tensor in tensors.items() if ".lora_B." in key}
    return {name: (down, ups[name], scale) for name, down in downs.items()}


def _merge(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    return weight.float().addmm_(up.float(), down.float(), alpha=scale).to(weight.dtype)
