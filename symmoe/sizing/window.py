"""How many tokens a model was made for, as its config.json says and vLLM reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"),
    *("max_seq_length", "seq_len"),
)
_NOT_LONGER = frozenset({"default", "mrope", "su", "longrope", "llama3"})
"""Ways of rotating positions whose models state the length that they reach, not the one that is stretched."""


def window_of(config: Mapping[str, Any]) -> int | None:
    """Tokens of a prompt and its answer together; None where the config states no length.

    That is `model_max_length`, or else the least of the lengths that are stated, times the factor by which rotary
    positions are stretched: as vLLM 0.29 has it, which refuses to start a model for more.
    """
    text: Mapping[str, Any] = config.get("text_config") or config
    stated = [int(text[key]) for key in _LENGTHS if text.get(key)]
    length, factor = int(text.get("model_max_length") or min(stated, default=0)), 1.0
    if not length:
        return None
    if "gemma3" in str(text.get("model_type")):  # states what it reaches
        return length
    for rotation in _rotations(text):
        kind = str(rotation.get("rope_type") or rotation.get("type") or "default")
        if kind not in _NOT_LONGER:
            factor = float(rotation.get("factor") or 1.0)
        if kind == "yarn":
            length = int(rotation.get("original_max_position_embeddings") or length)
    return int(length * factor)


def _rotations(text: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """How positions are rotated: under either name, once for the whole model or for each kind of layer."""
    found = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(found, Mapping):
        return ()
    nested = [each for each in found.values() if isinstance(each, Mapping)]
    return nested or (found,)
