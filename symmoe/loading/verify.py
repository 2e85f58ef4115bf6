"""Whether weights on disk can be trusted, told before any model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.loading.merge import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_name, lora_scale
from symmoe.loading.sources import MANIFEST, recorded_sha256, sha256_of

CARD = "card.json"
_FLOATS = ("F16", "BF16", "F32", "F64")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def verify_model(directory: Path) -> None:
    """Check that a model directory holds readable safetensors and a config. Raises `CheckpointError` by file name."""
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise _without_safetensors(directory)
    index = directory / "model.safetensors.index.json"
    named = set(_read_json(index).get("weight_map", {}).values()) if index.exists() else set()
    missing = sorted(named - {file.name for file in weights})
    if missing:
        raise CheckpointError(f"{directory / missing[0]}: named by {index.name}, but not there")
    for file in weights:
        shapes_of(file)
    _read_json(directory / "config.json")
    if (directory / MANIFEST).exists() and recorded_sha256(directory) != sha256_of(weights[0]):
        raise CheckpointError(
            f"{weights[0]}: its sha256 is not the one recorded when it was prepared: the file was altered",
            hint=f"delete {directory}; the next command prepares it again",
        )


def trained_on(adapter: Path) -> str:
    """The base that an adapter's config names; empty if it names none."""
    return str(_read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")


def verify_adapter(adapter: Path, base: Path | None) -> None:
    """Check an adapter's files, its checksum if its card records one, and that it fits the base, shape by shape.

    Without a base (one that is not on this machine yet) the fit is not checked.

    Raises `CheckpointError` that names the file or tensor at fault.
    """
    if not adapter.is_dir():
        raise CheckpointError(f"{adapter}: no such adapter directory")
    weights = adapter / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise _without_safetensors(adapter)
    config = _read_json(adapter / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{adapter / ADAPTER_CONFIG}: peft_type is {config.get('peft_type')!r}, not 'LORA'")
    lora_scale(config, adapter)
    shapes = shapes_of(weights)
    _verify_checksum(adapter, weights)
    _verify_halves(weights, shapes, config["r"])
    _verify_numbers(weights)
    if base:
        _verify_fit(weights, shapes, base)


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a safetensors file. A corrupt or truncated file raises `CheckpointError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            names = tensors.keys()
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: corrupt or truncated safetensors ({error})") from error


def _verify_checksum(adapter: Path, weights: Path) -> None:
    card = adapter / CARD
    if not card.exists():
        return
    recorded = _read_json(card).get("sha256")
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
    model: dict[str, tuple[int, ...]] = {}
    for file in sorted(base.glob("*.safetensors")):
        model |= shapes_of(file)
    for key, shape in adapter.items():
        target = model.get(base_name(key))
        side = 1 if ".lora_A." in key else 0
        if target is None or len(target) != 2 or shape[side] != target[side]:
            found = "has no such tensor" if target is None else f"has it as {target}"
            raise CheckpointError(f"{weights}: made for another base: {key} is {shape}, the base {found}")


def _without_safetensors(directory: Path) -> CheckpointError:
    pickles = [file.name for file in sorted(directory.glob("*")) if file.suffix in _PICKLES]
    if pickles:
        return CheckpointError(
            f"{directory / pickles[0]}: a pickle checkpoint, which can run code when read; only safetensors are read",
            hint="convert it to safetensors on a machine that you can lose",
        )
    return CheckpointError(f"{directory}: no safetensors file in it")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return document
