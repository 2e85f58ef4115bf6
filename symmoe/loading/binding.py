"""Where each tensor of a checkpoint lives in a running vLLM model, and how to put another one there.

vLLM's own reload rebuilds every layer, and on a CPU leaves a tied output head with the kernel of the old embedding
(seen in 0.29). Here weights go straight to the storage that the model reads, or, on a CPU, to a kernel made of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symmoe.errors import CheckpointError
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.order import FUSIONS

if TYPE_CHECKING:
    import torch

_PLAIN = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter of the running model and the checkpoint tensors that it is made of, stacked by rows."""

    name: str
    module: Any
    attribute: str
    sources: tuple[str, ...]

    @property
    def multiplies(self) -> bool:
        """Whether the model multiplies by this weight through a CPU kernel made of it."""
        return self.attribute == "weight" and hasattr(self.module, "cpu_linear")

    @property
    def parameter(self) -> torch.Tensor:
        """The parameter itself: of no elements where the CPU kernel replaced it."""
        value: torch.Tensor = getattr(self.module, self.attribute)
        return value

    def tags(self, of: Mapping[str, str]) -> tuple[str, ...]:
        """The tags of the tensors that it is made of."""
        return tuple(of[name] for name in self.sources)


def slots_of(model: Any, names: Collection[str]) -> tuple[Slot, ...]:
    """A slot for every parameter of `model`, filled from checkpoint tensors called `names`.

    Raises `CheckpointError` where a parameter or a tensor finds no partner, or a layer is not plain: such a model is
    reloaded by vLLM instead.
    """
    slots = tuple(_slots(model, frozenset(names)))
    unused = set(names) - {name for slot in slots for name in slot.sources}
    if unused:
        raise CheckpointError(f"the running model has no place for {min(unused)!r}")
    return slots


def weight_of(slot: Slot, image: PackedCheckpoint) -> torch.Tensor:
    """The slot's new value: a view into the image where its parts are neighbours there, else a copy."""
    import torch

    if len(slot.sources) == 1:
        return image.tensor(slot.sources[0])
    fused = image.fused(slot.sources)
    return torch.cat([image.tensor(name) for name in slot.sources]) if fused is None else fused


def write(slot: Slot, weight: torch.Tensor) -> int:
    """Copy a weight into the parameter's own storage, where the model keeps one; bytes written."""
    parameter = slot.parameter.data
    if parameter.numel() == 0:
        return 0
    if parameter.shape != weight.shape:
        raise CheckpointError(f"{slot.name} is {tuple(parameter.shape)}, the expert's is {tuple(weight.shape)}")
    parameter.copy_(weight, non_blocking=True)
    return weight.numel() * weight.element_size()


def _slots(model: Any, names: frozenset[str]) -> Iterator[Slot]:
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is None:
                continue
            method = getattr(module, "quant_method", None)
            if method is not None and type(method).__name__ not in _PLAIN:
                raise CheckpointError(f"{path}: a layer of {type(method).__name__} cannot be written in place")
            name = f"{path}.{attribute}"
            yield Slot(name, module, attribute, _sources(model, name, parameter, names))


def _sources(model: Any, name: str, parameter: Any, names: frozenset[str]) -> tuple[str, ...]:
    """The checkpoint tensors behind a parameter: its namesake, the parts of a fused one, or what it is tied to."""
    if name in names:
        return (name,)
    path, _, attribute = name.rpartition(".")
    above, _, last = path.rpartition(".")
    parts = tuple(f"{above}.{part}.{attribute}" for part in FUSIONS.get(last, ()))
    if parts and names.issuperset(parts):
        return parts
    for other, twin in model.named_parameters():
        if twin is parameter and other in names:
            return (other,)
    raise CheckpointError(f"the checkpoint has no tensor for {name!r}")
