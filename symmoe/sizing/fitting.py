"""Whether an expert fits an accelerator: weights, activations, reserve, and the KV cache of one full window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from symmoe.config import EngineConfig
from symmoe.errors import RequestError
from symmoe.sizing.architecture import BF16, Architecture

_H = 16384
CPU = "cpu"
"""In place of an accelerator: experts run on the CPU."""
GB = 10**9
RESERVE = 1 << 30
"""Set aside on every accelerator for the driver's context, captured graphs and staging. Assumed, not measured."""
RESERVE_SPLIT = 512 << 20
"""More of it where accelerators work on one model together, for the buffers of their collectives. Assumed."""
_LOGITS = 8
"""Bytes of a logit while sampling: one in fp32, and a copy."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A kind of accelerator. `memory_gb` is in units of 10⁹ bytes: drivers report this or a little more.

    `batched_tokens` is how many tokens vLLM 0.29 computes at once on it by default.
    """

    name: str
    memory_gb: int
    batched_tokens: int = 8192

    @property
    def memory_bytes(self) -> int:
        """Its memory in bytes."""
        return self.memory_gb * 10**9


ACCELERATORS = {
    each.name: each
    for each in (
        Accelerator("L4", 24),
        Accelerator("A10", 24),
        Accelerator("L40S", 48),
        Accelerator("A100-40", 40),
        Accelerator("A100-80", 80),
        Accelerator("H100", 80, _H),
        Accelerator("H200", 141, _H),
        Accelerator("B200", 180, _H),
    )
}
"""By name. NVIDIA's data sheets; `batched_tokens` from vLLM's defaults by memory and name."""


def accelerator(name: str) -> Accelerator:
    """The accelerator of that name, in any case. Raises `RequestError`, listing the known names."""
    for known in ACCELERATORS.values():
        if known.name.lower() == name.lower():
            return known
    names = ", ".join((*ACCELERATORS, CPU))
    raise RequestError(f"no accelerator {name!r} is known", code="bad_option", hint=f"there are: {names}")


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that an expert takes of one accelerator, when its model is split over `split` of them.

    `window` is the KV cache of one request of the longest length, `token` that of one token. `budget` is what the
    engine may use in all.
    """

    expert: str
    split: int
    budget: int
    weights: int
    activations: int
    reserve: int
    token: int
    window: int

    @property
    def fixed(self) -> int:
        """All but the KV cache."""
        return self.weights + self.activations + self.reserve

    @property
    def cache(self) -> int:
        """What is left for the KV cache; negative if not even the rest fits."""
        return self.budget - self.fixed

    @property
    def short(self) -> int:
        """How many bytes are missing for one request of the longest length; 0 if the expert fits."""
        return max(0, self.window - self.cache)

    @property
    def windows(self) -> float:
        """How many requests of the longest length fit at a time."""
        return max(0, self.cache) / self.window


def need(expert: str, model: Architecture, engine: EngineConfig, on: Accelerator, split: int) -> Need:
    """What an expert takes of one of `split` accelerators."""
    length = min(engine.max_model_len, model.window)
    token = model.kv_bytes(split)
    return Need(
        expert=expert,
        split=split,
        budget=int(on.memory_bytes * engine.gpu_memory_utilization),
        weights=-(-model.weight_bytes // split),
        activations=activations(model, engine, on.batched_tokens, split),
        reserve=RESERVE + (RESERVE_SPLIT if split > 1 else 0),
        token=token,
        window=length * token,
    )


def activations(model: Architecture, engine: EngineConfig, batched: int, split: int) -> int:
    """The most bytes that one pass takes besides the weights.

    The widest point of a layer is its feed-forward: input, residual, and the three products of the intermediate size
    for all tokens of a batch. The end adds the logits of every running sequence.
    """
    widest = 2 * model.hidden + 3 * model.intermediate // split
    return batched * widest * BF16 + engine.max_num_seqs * model.vocab * _LOGITS


def splits(models: Mapping[str, Architecture], most: int) -> tuple[int, ...]:
    """The numbers of accelerators, up to `most`, over which every one of the models can be divided."""
    allowed = [set(model.splits(most)) for model in models.values()]
    return tuple(sorted(set.intersection(*allowed)))


def needs(models: Mapping[str, Architecture], engine: EngineConfig, on: Accelerator, split: int) -> tuple[Need, ...]:
    """What each expert takes."""
    return tuple(need(name, model, engine, on, split) for name, model in models.items())


def remedies(
    models: Mapping[str, Architecture], engine: EngineConfig, on: Accelerator, split: int, node: int
) -> list[str]:
    """Changes that make all experts fit, as phrases: wider split, fewer bits, another accelerator, fewer experts."""
    short = {each.expert for each in needs(models, engine, on, split) if each.short}
    changes = []
    wider = [each for each in splits(models, node) if each > split and _fit(models, engine, on, each)]
    if wider:
        changes.append(f"engine.tensor_parallel_size: {wider[0]}")
    wider_nodes = [each for each in splits(models, 8) if each > max(split, node) and _fit(models, engine, on, each)]
    if wider_nodes and not wider:
        changes.append(f"nodes of {wider_nodes[0]} accelerators, with engine.tensor_parallel_size: {wider_nodes[0]}")
    for bits in (8, 4):
        fewer = {name: model.quantised(bits) if name in short else model for name, model in models.items()}
        if _fit(fewer, engine, on, split):
            changes.append(f"checkpoints of {', '.join(sorted(short))} quantised to {bits} bits")
            break
    larger = [each for each in ACCELERATORS.values() if _fit(models, engine, each, split)]
    if larger:
        smallest = min(each.memory_gb for each in larger)
        names = " or ".join(each.name for each in larger if each.memory_gb == smallest)
        changes.append(f"{smallest} GB ({names})")
    length = _length(models, engine, on, split)
    if length:
        changes.append(f"engine.max_model_len: {length}")
    if len(short) < len(models):
        changes.append(f"the pool without {', '.join(sorted(short))}")
    return changes


def _fit(models: Mapping[str, Architecture], engine: EngineConfig, on: Accelerator, split: int) -> bool:
    return not any(each.short for each in needs(models, engine, on, split))


def _length(models: Mapping[str, Architecture], engine: EngineConfig, on: Accelerator, split: int) -> int:
    """The longest window of 1024 tokens or more, in steps of 1024, with which all fit; 0 if there is none."""
    rooms = ((each.cache // each.token, models[each.expert].window) for each in needs(models, engine, on, split))
    longest = min((room for room, window in rooms if room < window), default=engine.max_model_len)
    return max(0, min(longest, engine.max_model_len) // 1024 * 1024)
