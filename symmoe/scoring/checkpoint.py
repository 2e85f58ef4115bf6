"""Reading reward models from disk: safetensors only, no remote code, no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError

Architecture = Literal["AutoModel", "AutoModelForSequenceClassification"]
Precision = Literal["auto", "float32", "bfloat16"]


def read_tensors(directory: Path, prefixes: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a directory's safetensors files whose name begins with one of `prefixes`, as float32.

    Raises `CheckpointError` for a directory without safetensors, a damaged file, and a tensor with NaN or infinity.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, NDArray[np.float32]] = {}
    for file in _weight_files(directory):
        try:
            with safe_open(file, framework="pt") as opened:
                wanted = [name for name in opened.keys() if name.startswith(prefixes)]  # noqa: SIM118 (no mapping)
                tensors |= {name: opened.get_tensor(name).float().numpy() for name in wanted}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: corrupt or truncated safetensors ({error})") from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{directory}: {name} holds NaN or infinite numbers")
    return tensors


def load_model(directory: Path, architecture: Architecture, precision: Precision, device: str) -> Any:
    """A transformers model in evaluation mode. Raises `CheckpointError` unless every weight is there, fits, is finite.

    `precision` "auto" is the checkpoint's own.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    _weight_files(directory)
    try:
        with _quiet():
            model, info = getattr(transformers, architecture).from_pretrained(
                directory,
                dtype=precision if precision == "auto" else getattr(torch, precision),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: cannot be loaded ({error})") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"{directory}: {len(missing)} tensors are missing, the first is {missing[0]}")
    model = model.eval().to(device)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(f"{directory}: {name} holds NaN or infinite numbers")
    return model


def load_tokenizer(directory: Path) -> Any:
    """The checkpoint's tokenizer. Raises `CheckpointError`."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: no usable tokenizer ({error})") from error


def window_of(model: Any, window: int | None) -> int:
    """The tokens that a model can read: what its config says, or `window` if that is less."""
    own = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    return min(filter(None, (own, window)), default=4096)


def _weight_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such model directory")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory}: no safetensors file in it", hint="no other format of weights is read")
    return files


@contextmanager
def _quiet() -> Iterator[None]:
    """Tensors beyond the backbone's are no news here, so transformers need not report them."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
