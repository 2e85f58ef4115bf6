"""Checks whether weights on disk can be trusted, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.loading.headers import stored_tensors, weight_files
from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_name, lora_scale
from symmoe.loading.sources import MANIFEST, recorded_sha256, sha256_of

CARD = "card.json"
_FLOATS = ("F16", "BF16", "F32", "F64")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def verify_model(directory: Path) -> None:
    """Check that a model directory holds readable safetensors and a config. Raises `CheckpointError` by file name."""
    if not any(directory.glob("*.safetensors")):
        raise _without_safetensors(directory)
    weights = weight_files(directory)
    stored_tensors(weights)
    read_json(directory / "config.json")
    if (directory / MANIFEST).exists() and recorded_sha256(directory) != sha256_of(weights[0]):
        raise CheckpointError(
            f"{weights[0]}: its sha256 is not the one recorded when it was prepared: the file was altered",
            hint=f"delete {directory}; the next command prepares it again",
        )


def trained_on(adapter: Path) -> str:
    """The base that an adapter's config names; empty if it names none."""
    return str(read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")


def verify_adapter(adapter: Path, base: Path | None) -> None:
    """Check an adapter's files, its checksum if its card records one, and that it fits the base, shape by shape.

    Without a base (one that is not on this machine yet) the fit is not checked. Raises `CheckpointError`, naming the
    file or tensor at fault.
    """
    if not adapter.is_dir():
        raise CheckpointError(f"{adapter}: no such adapter directory")
    weights = adapter / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise _without_safetensors(adapter)
    config = read_json(adapter / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{adapter / ADAPTER_CONFIG}: peft_type is {config.get('peft_type')!r}, not 'LORA'")
    lora_scale(config, adapter)
    shapes = _shapes([weights])
    _verify_checksum(adapter, weights)
    _verify_halves(weights, shapes, config["r"])
    _verify_numbers(weights)
    if base:
        _verify_fit(weights, shapes, base)


def _verify_checksum(adapter: Path, weights: Path) -> None:
    card = adapter / CARD
    if not card.exists():
        return
    recorded = read_json(card).get("sha256")
    if recorded and recorded != sha256_of(weights):
        raise CheckpointError(
            f"{weights}: its sha256 is not the one that {CARD} records: the file was altered",
            hint="train it again with `symmoe expert train`, or restore the file",
        )


def _verify_halves(weights: Path, shapes: dict[str, tuple[int, ...]], rank: int) -> None:
    """Every change is a product B·A of the rank that the config names: with another one the scale would be wrong."""
    halves: dict[str, set[str]] = {}
    for key, shape in shapes.items():
        side = next((side for side in ("lora_A", "lora_B") if f".{side}." in key), None)
        if side is None or len(shape) != 2:
            raise CheckpointError(f"{weights}: {key} of shape {shape} is no LoRA matrix")
        if shape[0 if side == "lora_A" else 1] != rank:
            raise CheckpointError(f"{weights}: {key} is {shape}, which is not of the rank {rank} in {ADAPTER_CONFIG}")
        halves.setdefault(base_name(key), set()).add(side)
    for name, sides in halves.items():
        if len(sides) != 2:
            raise CheckpointError(f"{weights}: {name} has {sides.pop()} but not the other half of the product")


def _verify_numbers(weights: Path) -> None:
    """Every number of an adapter is a finite floating-point one: anything else would spoil the base in the merge."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118  (a safetensors handle is not a mapping)
            dtype = tensors.get_slice(key).get_dtype()
            if dtype not in _FLOATS:
                raise CheckpointError(f"{weights}: {key} is of {dtype}, not one of {', '.join(_FLOATS)}")
            if not tensors.get_tensor(key).isfinite().all():
                raise CheckpointError(f"{weights}: {key} holds numbers that are infinite or none (NaN)")


def _verify_fit(weights: Path, adapter: dict[str, tuple[int, ...]], base: Path) -> None:
    model = _shapes(weight_files(base))
    for key, shape in adapter.items():
        target = model.get(base_name(key))
        side = 1 if ".lora_A." in key else 0
        if target is None or len(target) != 2 or shape[side] != target[side]:
            problem = "has no such tensor" if target is None else f"has it as {target}"
            raise CheckpointError(f"{weights}: made for another base: {key} is {shape}, the base {problem}")


def _shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in stored_tensors(files).items()}


def _without_safetensors(directory: Path) -> CheckpointError:
    pickles = [file.name for file in sorted(directory.glob("*")) if file.suffix in _PICKLES]
    if pickles:
        return CheckpointError(
            f"{directory / pickles[0]}: a pickle checkpoint, which can run code when read; only safetensors are read",
            hint="convert it to safetensors on a machine that you can lose",
        )
    return CheckpointError(f"{directory}: no safetensors file in it")
