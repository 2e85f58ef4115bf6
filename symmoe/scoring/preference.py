"""Training the gate on which of two answers people prefer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from symmoe.errors import ConfigError
from symmoe.scoring.heads import Floats, GatingNetwork

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class GateRecipe:
    """Everything that decides what a gate becomes. No `hidden` layer makes it linear; ArmoRM has three of 1024."""

    hidden: tuple[int, ...] = (64,)
    temperature: float = 1.0
    steps: int = 500
    batch_size: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainedGate:
    """A gate, its Bradley–Terry loss on the pairs it was trained on, and the share of them that it ranks right."""

    gate: GatingNetwork
    loss: float
    accuracy: float


def train_gate(prompts: Floats, margins: Floats, recipe: GateRecipe) -> TrainedGate:
    """Train a gate g to make Σⱼ gⱼ(prompt)·marginⱼ positive: −log σ of it is the loss (Bradley–Terry; ArmoRM, §2.2).

    `prompts` are states `[n, d]`; `margins` `[n, objectives]` are the debiased ratings of the preferred answer minus
    those of the other. Equal recipes and numbers give equal gates. Raises `ConfigError` if no or odd pairs are given.
    """
    import torch

    if not len(prompts) or len(prompts) != len(margins):
        raise ConfigError(f"{len(prompts)} prompts and {len(margins)} pairs make no training set for a gate")
    if not (np.isfinite(prompts).all() and np.isfinite(margins).all()):
        raise ConfigError("a pair holds NaN or infinite numbers", hint="leave out what could not be read")
    mean, spread = prompts.mean(axis=0), prompts.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0).astype(np.float32)
    inputs, targets = torch.tensor((prompts - mean) / spread), torch.tensor(margins, dtype=torch.float32)
    numbers = torch.Generator().manual_seed(recipe.seed)
    layers = _initial((prompts.shape[1], *recipe.hidden, margins.shape[1]), numbers)
    log_scale = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.AdamW(
        [*(part for layer in layers for part in layer), log_scale],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    for _ in range(recipe.steps):
        rows = torch.randperm(len(inputs), generator=numbers)[: recipe.batch_size]
        loss = _loss(_margin(inputs[rows], targets[rows], layers, log_scale, recipe.temperature))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        margin = _margin(inputs, targets, layers, log_scale, recipe.temperature)
    gate = GatingNetwork(_plain(layers, mean, spread), recipe.temperature, float(log_scale.detach().exp()))
    return TrainedGate(gate, float(_loss(margin)), float((margin > 0).float().mean()))


def _initial(widths: Sequence[int], numbers: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    import torch

    return [
        (
            (torch.randn(out, into, generator=numbers) / into**0.5).requires_grad_(),
            torch.zeros(out, requires_grad=True),
        )
        for into, out in pairwise(widths)
    ]


def _margin(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
    log_scale: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    import torch

    signal = inputs
    for place, (weight, bias) in enumerate(layers):
        signal = torch.nn.functional.linear(torch.relu(signal) if place else signal, weight, bias)
    # over the objectives: over the pair, as the published training script has it, a gate learns nothing
    weights = torch.softmax(signal / temperature, dim=-1) * log_scale.exp()
    return (weights * targets).sum(dim=-1)


def _loss(margin: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.softplus(-margin).mean()


def _plain(
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]], mean: Floats, spread: Floats
) -> tuple[tuple[Floats, Floats], ...]:
    """The layers as numbers, the first of them reading states that are not standardised."""
    (weight, bias), *rest = [(w.detach().numpy(), b.detach().numpy()) for w, b in layers]
    weight = weight / spread
    return ((weight, (bias - weight @ mean).astype(np.float32)), *rest)
