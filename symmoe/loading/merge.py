"""Merging a LoRA adapter into its base: `W + (alpha / r) · B·A`, tensor by tensor, without a copy of the base."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.loading.headers import INDEX, weight_files

if TYPE_CHECKING:
    import torch

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_UNSUPPORTED = (
    *("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"),
    *("fan_in_fan_out", "layer_replication", "trainable_token_indices", "use_qalora"),
)


@dataclass(frozen=True, slots=True)
class Update:
    """An adapter's change to one weight: `scale · up·down`, `up` of shape [out, r] and `down` of [r, in]."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` [out, in] plus this, computed in fp32 and rounded once to its dtype; in place if it is fp32."""
        return weight.float().addmm_(self.up.float(), self.down.float(), alpha=self.scale).to(weight.dtype)


def merged_weights(model: str, adapter: str | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint directory `model` in its own dtype, with `adapter` merged in where given.

    The product is computed in fp32 and rounded once. Raises `CheckpointError` if the adapter names a tensor that the
    base does not have.
    """
    from safetensors import safe_open

    updates = read_updates(Path(adapter)) if adapter else {}
    for file in weight_files(Path(model)):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a safetensors handle is not a mapping)
                weight = tensors.get_tensor(name)
                update = updates.pop(name, None)
                yield name, weight if update is None else update.merged(weight)
    if updates:
        raise CheckpointError(f"{adapter}: the base has no tensor {next(iter(updates))!r}")


def write_merged(model: str, adapter: str | None, out: Path) -> Path:
    """Write a model, with `adapter` merged in where given, as a complete checkpoint directory. Returns `out`."""
    from safetensors.torch import save_file

    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors", INDEX))
    save_file(dict(merged_weights(model, adapter)), out / "model.safetensors")
    return out


def lora_scale(config: dict[str, Any], where: Path) -> float:
    """The factor of an adapter's product. Raises `CheckpointError` for LoRA variants that cannot be merged this way."""
    for option in _UNSUPPORTED:
        if config.get(option):
            raise CheckpointError(f"{where}: adapters with {option} are not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(
            f"{where}: its config gives no usable rank and alpha (r: {rank!r}, lora_alpha: {alpha!r})"
        )
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def adapter_rank(adapter: Path) -> int:
    """The rank of an adapter. Raises `CheckpointError` for an unusable one."""
    config = read_config(adapter)
    lora_scale(config, adapter)
    return int(config["r"])


def base_name(lora_key: str) -> str:
    """The base tensor that a LoRA tensor changes: `base_model.model.X.lora_A.weight` changes `X.weight`."""
    return lora_key.removeprefix(_PREFIX).replace(".lora_A.weight", ".weight").replace(".lora_B.weight", ".weight")


def read_updates(adapter: Path) -> dict[str, Update]:
    """An adapter's change to each base tensor that it changes."""
    from safetensors.torch import load_file

    scale = lora_scale(read_config(adapter), adapter)
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    downs = {base_name(key): tensor for key, tensor in tensors.items() if ".lora_A." in key}
    ups = {base_name(key): tensor for key, tensor in tensors.items() if ".lora_B." in key}
    return {name: Update(down, ups[name], scale) for name, down in downs.items()}


def read_config(adapter: Path) -> dict[str, Any]:
    """An adapter's config. Raises `CheckpointError` if it cannot be read."""
    return read_json(adapter / ADAPTER_CONFIG)
