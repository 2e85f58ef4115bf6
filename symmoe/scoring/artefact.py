"""Fitted heads on disk: `heads.safetensors`, and a card that says how they came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.scoring.checkpoint import read_tensors
from symmoe.scoring.heads import Heads
from symmoe.scoring.tensors import PREFIXES, from_tensors, to_tensors

CARD, WEIGHTS = "card.json", "heads.safetensors"
FORMAT = 1


def save_heads(heads: Heads, directory: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write heads and card; equal heads give equal bytes. `about` (recipe, data, figures) goes into the card.

    Raises `CheckpointError` for heads whose sizes do not fit each other, so nothing is written that would not load.
    """
    from safetensors.torch import save_file
    from torch import from_numpy

    tensors = to_tensors(heads)
    widths = heads.gate.layers[0][0].shape[1], heads.weight.shape[1]
    from_tensors(tensors, heads.objectives, widths, heads.gate.temperature, str(directory))
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: from_numpy(tensor) for name, tensor in tensors.items()}, directory / WEIGHTS)
    card = {
        "format": FORMAT,
        "objectives": list(heads.objectives),
        "prompt_width": widths[0],
        "answer_width": widths[1],
        "temperature": heads.gate.temperature,
        "sha256": _sha256(directory / WEIGHTS),
        "about": dict(about),
    }
    (directory / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def load_heads(directory: Path) -> tuple[Heads, dict[str, Any]]:
    """The heads that `save_heads` wrote, and their card.

    Raises `CheckpointError` for an altered file, and for tensors that are missing, not finite or not of the sizes that
    the card names.
    """
    card = read_json(directory / CARD)
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{directory / CARD}: format {card.get('format')!r}; this version reads {FORMAT}")
    weights = directory / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{weights}: named by {CARD}, but not there")
    if card.get("sha256") != _sha256(weights):
        raise CheckpointError(
            f"{weights}: its sha256 is not the one that {CARD} records: the file was altered",
            hint="fit the gate again, or restore both files",
        )
    try:
        objectives = [str(name) for name in card["objectives"]]
        widths, temperature = (int(card["prompt_width"]), int(card["answer_width"])), float(card["temperature"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / CARD}: not the card of a gate ({error!r})") from error
    return from_tensors(read_tensors(directory, PREFIXES), objectives, widths, temperature, str(weights)), card


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
