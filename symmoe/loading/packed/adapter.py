"""What an adapter changes of its base, told from headers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from symmoe.errors import CheckpointError
from symmoe.loading.headers import StoredTensor, stored_tensors
from symmoe.loading.merge import ADAPTER_WEIGHTS, base_name, lora_scale, read_config
from symmoe.loading.packed.digests import weights_digest

_SIDES = ("lora_A", "lora_B")
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """A digest of an adapter's weights and scale, and the names of the base tensors that it changes."""

    digest: str
    changed: frozenset[str]


def adapter_facts(adapter: Path, base: Mapping[str, StoredTensor]) -> AdapterFacts:
    """What the adapter changes of `base`. Raises `CheckpointError` if it does not fit, by the tensor's name."""
    scale = lora_scale(read_config(adapter), adapter)
    weights = adapter / ADAPTER_WEIGHTS
    tensors = stored_tensors([weights])
    halves: dict[str, dict[str, StoredTensor]] = {}
    for key, tensor in tensors.items():
        side = next((side for side in _SIDES if f".{side}." in key), None)
        if side is None:
            raise CheckpointError(f"{weights}: {key} is no LoRA matrix")
        halves.setdefault(base_name(key), {})[side] = tensor
    for name, sides in halves.items():
        problem = _misfit(base.get(name), sides.get("lora_A"), sides.get("lora_B"))
        if problem:
            raise CheckpointError(f"{weights}: {name}: {problem}")
    digest = hashlib.sha256(f"{weights_digest(tensors.values())} {scale.hex()}".encode()).hexdigest()
    return AdapterFacts(digest, frozenset(halves))


def _misfit(base: StoredTensor | None, down: StoredTensor | None, up: StoredTensor | None) -> str | None:
    if base is None:
        return "the base has no tensor of that name"
    if down is None or up is None:
        return "one half of the product is missing"
    if base.dtype not in _FLOATS:
        return f"the base has it as {base.dtype}: an adapter cannot be merged into quantised weights"
    fits = len(down.shape) == len(up.shape) == 2 and base.shape == (up.shape[0], down.shape[1])
    if not fits or up.shape[1] != down.shape[0]:
        return f"{up.shape} times {down.shape} does not fit the base, which has {base.shape}"
    return None
