"""Heads as named tensors, by the names of the published ArmoRM checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from symmoe.errors import CheckpointError
from symmoe.scoring.heads import Floats, GatingNetwork, Heads

REGRESSION, BIAS = "regression_layer.weight", "regression_layer.bias"
TRANSFORM, CENTRE, PENALTY = "reward_transform_matrix", "score_centre", "score_penalty"
GATE, SCALE = "gating.layers.", "gating.logit_scale"
PREFIXES = ("regression_layer.", "reward_transform_matrix", "score_", "gating.")
_OPTIONAL = (BIAS, CENTRE, PENALTY)


def to_tensors(heads: Heads) -> dict[str, Floats]:
    """Every number of `heads` but the temperature."""
    tensors = {REGRESSION: heads.weight, BIAS: heads.bias, TRANSFORM: heads.transform}
    tensors |= {CENTRE: heads.centre, PENALTY: heads.penalty}
    for place, (weight, bias) in enumerate(heads.gate.layers):
        tensors |= {f"{GATE}{place}.weight": weight, f"{GATE}{place}.bias": bias}
    tensors[SCALE] = np.array([heads.gate.scale], dtype=np.float32)
    return {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


def from_tensors(
    tensors: Mapping[str, Floats], objectives: Sequence[str], widths: tuple[int, int], temperature: float, where: str
) -> Heads:
    """Heads over `objectives` for states of `widths` (prompt, answer). Bias, centre and penalty may be left out.

    Raises `CheckpointError`, which names `where` and the tensor, if one is missing, unknown, or of another size.
    """
    depth = sum(name.startswith(GATE) and name.endswith(".weight") for name in tensors)
    layers = [(f"{GATE}{place}.weight", f"{GATE}{place}.bias") for place in range(depth or 1)]
    needed = [REGRESSION, TRANSFORM, SCALE, *(name for layer in layers for name in layer)]
    if missing := [name for name in needed if name not in tensors]:
        raise CheckpointError(f"{where}: {missing[0]} is missing")
    if unknown := sorted(set(tensors) - {*needed, *_OPTIONAL}):
        raise CheckpointError(f"{where}: {unknown[0]} is no part of these heads", hint="it is another architecture")
    prompt, answer = widths
    count = len(objectives)
    expected = {REGRESSION: (count, answer), TRANSFORM: (count, count), SCALE: (1,)}
    expected |= {name: (count,) for name in _OPTIONAL if name in tensors}
    for place, (weight, bias) in enumerate(layers):
        out = count if place == depth - 1 else tensors[weight].shape[0]
        expected |= {weight: (out, prompt), bias: (out,)}
        prompt = out
    _check(tensors, expected, where)
    if not temperature > 0:
        raise CheckpointError(f"{where}: the gate's temperature is {temperature}, which is not above 0")
    gate = GatingNetwork(tuple((tensors[w], tensors[b]) for w, b in layers), temperature, float(tensors[SCALE][0]))
    none = np.zeros(count, dtype=np.float32)
    offset, centre, penalty = (tensors.get(name, none) for name in _OPTIONAL)
    return Heads(tuple(objectives), tensors[REGRESSION], offset, tensors[TRANSFORM], centre, penalty, gate)


def _check(tensors: Mapping[str, Floats], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    for name, shape in expected.items():
        found = tensors[name].shape
        if found != shape:
            raise CheckpointError(f"{where}: {name} is {found}, where {shape} fits", hint="made for another model")
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinite numbers")
