"""Turns hidden states into a score: ratings on many objectives, and a gate that weighs them for a prompt.

On disk, heads are tensors named as in the published ArmoRM checkpoint, in `heads.safetensors`, and a card that says how
they were made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.errors import CheckpointError
from symmoe.json_files import read_json
from symmoe.types import Reward

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class GatingNetwork:
    """Weights of the objectives from the prompt alone: softmax(MLP(prompt) / temperature) · scale (ArmoRM, §2.2).

    `layers` are (weight `[out, in]`, bias `[out]`), with ReLU between them; one layer makes a linear gate.
    """

    layers: tuple[tuple[Floats, Floats], ...]
    temperature: float
    scale: float

    def weigh(self, prompts: Floats) -> Floats:
        """Prompt states `[n, d]` to weights `[n, objectives]`, each row summing to `scale`."""
        signal = prompts
        for place, (weight, bias) in enumerate(self.layers):
            signal = (np.maximum(signal, 0.0) if place else signal) @ weight.T + bias
        signal = signal / np.float32(self.temperature)
        raised = np.exp(signal - signal.max(axis=1, keepdims=True))
        return np.asarray(self.scale * raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """score = Σⱼ gⱼ(prompt) · (rᵀT)ⱼ − r·p, where r are the answer's ratings less their `centre` (ArmoRM, §2.1–2.2).

    `weight` `[objectives, e]` and `bias` `[objectives]` rate an answer's state; `transform` `[objectives, objectives]`
    is T, which removes the length from each objective; `penalty` `[objectives]` is p, which removes from the score the
    length that the gate reintroduced. `centre` `[objectives]` keeps a gate from shifting all scores of one prompt.
    Penalty and centre are zero in ArmoRM.
    """

    objectives: tuple[str, ...]
    weight: Floats
    bias: Floats
    transform: Floats
    centre: Floats
    penalty: Floats
    gate: GatingNetwork

    def rate(self, answers: Floats) -> Floats:
        """Answer states `[n, e]` to raw ratings `[n, objectives]`."""
        return np.asarray(answers @ self.weight.T + self.bias, dtype=np.float32)

    def score(self, ratings: Floats, weights: Floats) -> Floats:
        """Raw ratings and the gate's weights, both `[n, objectives]`, to scores `[n]`."""
        centred = ratings - self.centre
        gated = (weights * (centred @ self.transform)).sum(axis=1)
        return np.asarray(gated - centred @ self.penalty, dtype=np.float32)

    def rewards(self, prompts: Floats, answers: Floats) -> list[Reward]:
        """Rewards from prompt states `[n, d]` and answer states `[n, e]`; states that are not finite get no score."""
        finite = np.asarray(np.isfinite(np.hstack([prompts, answers])).all(axis=1))
        ratings = self.rate(np.where(finite[:, None], answers, 0.0))
        weights = self.gate.weigh(np.where(finite[:, None], prompts, 0.0))
        scores = self.score(ratings, weights)
        return [
            Reward(float(score), self._named(rated), self._named(weighed))
            if known
            else Reward(None, note="the model's hidden state is not finite")
            for known, score, rated, weighed in zip(finite, scores, ratings, weights, strict=True)
        ]

    def _named(self, numbers: Sequence[float] | Floats) -> dict[str, float]:
        return {name: float(number) for name, number in zip(self.objectives, numbers, strict=True)}


REGRESSION, BIAS = "regression_layer.weight", "regression_layer.bias"
TRANSFORM, CENTRE, PENALTY = "reward_transform_matrix", "score_centre", "score_penalty"
GATE, SCALE = "gating.layers.", "gating.logit_scale"
PREFIXES = ("regression_layer.", "reward_transform_matrix", "score_", "gating.")
_OPTIONAL = (BIAS, CENTRE, PENALTY)


def to_tensors(heads: Heads) -> dict[str, Floats]:
    """All parameters of `heads` except the temperature."""
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

    Raises `CheckpointError`, naming `where` and the tensor, if one is missing, unknown, or of the wrong size.
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
        actual = tensors[name].shape
        if actual != shape:
            raise CheckpointError(f"{where}: {name} is {actual}, where {shape} fits", hint="made for another model")
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinite numbers")


CARD, WEIGHTS = "card.json", "heads.safetensors"
FORMAT = 1


def save_heads(heads: Heads, directory: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write heads and card; equal heads give equal bytes. `about` (recipe, data, figures) goes into the card.

    Raises `CheckpointError` for heads whose sizes do not match, so that nothing is written that could not be loaded.
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
    """Load heads that `save_heads` wrote, and their card.

    Raises `CheckpointError` for an altered file, and for tensors that are missing, not finite or not of the card's
    sizes.
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
    return from_tensors(read_tensors(directory), objectives, widths, temperature, str(weights)), card


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_tensors(directory: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a directory's safetensors files whose name begins with one of `PREFIXES`, as float32.

    Raises `CheckpointError` for a directory without safetensors, a damaged file, and a tensor with NaN or infinity.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, NDArray[np.float32]] = {}
    for file in weight_files(directory):
        try:
            with safe_open(file, framework="pt") as opened:
                wanted = [name for name in opened.keys() if name.startswith(PREFIXES)]  # noqa: SIM118 (no mapping)
                tensors |= {name: opened.get_tensor(name).float().numpy() for name in wanted}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: corrupt or truncated safetensors ({error})") from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{directory}: {name} holds NaN or infinite numbers")
    return tensors


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory. Raises `CheckpointError` where there is none."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such model directory")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory}: no safetensors file in it", hint="no other format of weights is read")
    return files
