"""Swaps weights of the same shape in a running engine: writes what differs, rebinds what is still held, and verifies.

vLLM's own reload rebuilds every layer, and on a CPU leaves a tied output head with the kernel of the old embedding
(seen in 0.29). Here weights go straight to the storage that the model reads, or, on a CPU, to a kernel made of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from symmoe.errors import CheckpointError
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import FUSIONS

if TYPE_CHECKING:
    import torch

_PLAIN = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")
Tags = tuple[str, ...]
_PROBES, _ROWS = 3, 256
_TOLERANCE = 0.02  # of the largest product: bf16 products summed in another order


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter of the running model and the checkpoint tensors that form it, stacked by rows."""

    name: str
    module: Any
    attribute: str
    sources: tuple[str, ...]

    @property
    def multiplies(self) -> bool:
        """Whether the model multiplies by this weight through a CPU kernel."""
        return self.attribute == "weight" and hasattr(self.module, "cpu_linear")

    @property
    def parameter(self) -> torch.Tensor:
        """The parameter itself, which is empty where a CPU kernel replaced it."""
        value: torch.Tensor = getattr(self.module, self.attribute)
        return value

    def tags(self, of: Mapping[str, str]) -> tuple[str, ...]:
        """The tags of the tensors that form it."""
        return tuple(of[name] for name in self.sources)


def slots_of(model: Any, names: Collection[str]) -> tuple[Slot, ...]:
    """A slot for every parameter of `model`, filled from checkpoint tensors called `names`.

    Raises `CheckpointError` if a parameter or a tensor has no partner, or a layer is not plain; vLLM's own reload then
    loads the model instead.
    """
    slots = tuple(_slots(model, frozenset(names)))
    unused = set(names) - {name for slot in slots for name in slot.sources}
    if unused:
        raise CheckpointError(f"the running model has no place for {min(unused)!r}")
    return slots


def weight_of(slot: Slot, image: PackedCheckpoint) -> torch.Tensor:
    """The slot's new value: a view into the image if its parts are adjacent there, otherwise a copy."""
    import torch

    if len(slot.sources) == 1:
        return image.tensor(slot.sources[0])
    fused = image.fused(slot.sources)
    return torch.cat([image.tensor(name) for name in slot.sources]) if fused is None else fused


def write(slot: Slot, weight: torch.Tensor) -> int:
    """Copy a weight into the parameter's own storage, if the model keeps one; returns the bytes written."""
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


@dataclass(frozen=True, slots=True)
class Kernel:
    """One weight in the CPU kernel's format: the function that multiplies by it, and its bytes."""

    multiply: Callable[..., Any]
    nbytes: int


class KernelCache:
    """Kernels by the tags of their tensors. Equal tags mean equal bytes, so experts share kernels.

    Idle kernels are kept up to `budget` bytes. Those needed last by the announced order are dropped first (Belady), and
    before these, by age of use, those that it does not name.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[Tags, Kernel] = OrderedDict()
        self._next_use: dict[Tags, int] = {}

    def expect(self, experts: Sequence[Collection[Tags]]) -> None:
        """Set the kernels of the experts that come next, soonest first."""
        self._next_use = {}
        for turn, wanted in enumerate(experts):
            for tags in wanted:
                self._next_use.setdefault(tags, turn)

    def get(self, tags: Tags) -> Kernel | None:
        """The kernel of these tensors, if it is kept."""
        return self._kept.get(tags)

    def put(self, tags: Tags, kernel: Kernel) -> None:
        """Add a kernel; the next `use` drops others for it."""
        self._kept[tags] = kernel

    def use(self, wanted: Collection[Tags]) -> None:
        """Set the kernels that the engine uses from now on, and drop what exceeds the budget."""
        for tags in wanted:
            self._kept.move_to_end(tags)
        in_use = frozenset(wanted)
        idle = [tags for tags in self._kept if tags not in in_use]
        excess = sum(self._kept[tags].nbytes for tags in idle) - self.budget
        never = len(self._next_use)
        for tags in sorted(idle, key=lambda tags: self._next_use.get(tags, never), reverse=True):
            if excess <= 0:
                return
            excess -= self._kept.pop(tags).nbytes


def make_kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel:
    """Have vLLM choose and fill its CPU kernel for a weight `[out, in]`, without touching any layer of the model."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    layer = SimpleNamespace(weight=weight, bias=bias)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    return Kernel(layer.cpu_linear, weight.numel() * weight.element_size())


class Binding:
    """The weights of one running model, tensor by tensor.

    `tags` are those of the current weights: a swap writes only tensors whose tag differs. After a failure the state is
    unknown, and the next swap writes all of them.
    """

    def __init__(self, model: Any, tags: Mapping[str, str], budget: int) -> None:
        self._slots = slots_of(model, tags.keys())
        self._tags: Mapping[str, str] | None = dict(tags)
        self._experts: dict[str, Mapping[str, str]] = {}
        self._kernels = KernelCache(budget)
        for slot in self._slots:
            if slot.multiplies:
                self._keep(slot, tags)
        self._kernels.use(self._wanted(tags))

    def expect(self, keys: Sequence[str]) -> None:
        """Set the experts that come next, soonest first."""
        known = [self._experts[key] for key in keys if key in self._experts]
        self._kernels.expect([self._wanted(tags) for tags in known])

    def rebind(self, key: str) -> bool:
        """Serve an expert that is still held here; False, with nothing changed, if any part of it is missing."""
        tags = self._experts.get(key)
        if tags is None or self._tags is None:
            return False
        changed = self._changed(tags)
        if any(slot.parameter.numel() or self._kernels.get(slot.tags(tags)) is None for slot in changed):
            return False
        for slot in changed:
            slot.module.cpu_linear = self._kernel(slot.tags(tags)).multiply
        self._settle(tags)
        return True

    def swap(self, key: str, image: PackedCheckpoint) -> int:
        """Serve the expert of `image`; returns the bytes written or made into kernels.

        Raises `CheckpointError` if a shape differs or the written weights do not multiply as the image's do.
        """
        tags = image.manifest.tags()
        if tags.keys() != {name for slot in self._slots for name in slot.sources}:
            raise CheckpointError("the expert's tensors are not those of the running model")
        changed = self._changed(tags)
        self._tags = None
        moved = sum(self._put(slot, slot.tags(tags), image) for slot in changed)
        _wait()
        for slot in _spread(changed):
            _verify(slot, weight_of(slot, image))
        self._experts[key] = tags
        self._settle(tags)
        return moved

    def _settle(self, tags: Mapping[str, str]) -> None:
        self._tags = tags
        self._kernels.use(self._wanted(tags))

    def _changed(self, tags: Mapping[str, str]) -> list[Slot]:
        now = self._tags
        return [slot for slot in self._slots if now is None or slot.tags(now) != slot.tags(tags)]

    def _wanted(self, tags: Mapping[str, str]) -> set[Tags]:
        return {slot.tags(tags) for slot in self._slots if slot.multiplies}

    def _put(self, slot: Slot, tags: Tags, image: PackedCheckpoint) -> int:
        weight = weight_of(slot, image)
        moved = write(slot, weight)
        if not slot.multiplies:
            return moved
        if self._kernels.get(tags) is None:
            self._kernels.put(tags, make_kernel(weight, getattr(slot.module, "bias", None)))
            moved = weight.numel() * weight.element_size()
        slot.module.cpu_linear = self._kernel(tags).multiply
        return moved

    def _kernel(self, tags: Tags) -> Kernel:
        kernel = self._kernels.get(tags)
        if kernel is None:
            raise KeyError(f"no kernel is kept of {tags}")
        return kernel

    def _keep(self, slot: Slot, tags: Mapping[str, str]) -> None:
        """Take over the kernel that vLLM made when it started; a tied output head made one more of the same weight."""
        kernel = self._kernels.get(slot.tags(tags))
        if kernel:
            slot.module.cpu_linear = kernel.multiply
            return
        rows, columns = _shape(slot)
        self._kernels.put(slot.tags(tags), Kernel(slot.module.cpu_linear, rows * columns * 2))


def _shape(slot: Slot) -> tuple[int, int]:
    module = slot.module
    if slot.parameter.numel():
        rows, columns = slot.parameter.shape
        return int(rows), int(columns)
    part = "_per_partition" if hasattr(module, "output_size_per_partition") else ""  # others are never divided
    return int(getattr(module, f"output_size{part}")), int(getattr(module, f"input_size{part}"))


def _spread(slots: Sequence[Slot]) -> list[Slot]:
    """A few of the slots, from the first to the last."""
    if len(slots) <= _PROBES:
        return list(slots)
    return [slots[number * (len(slots) - 1) // (_PROBES - 1)] for number in range(_PROBES)]


def _verify(slot: Slot, weight: torch.Tensor) -> None:
    """Compare what the model now holds with the image: the bytes, or for a kernel the product with a fixed vector."""
    import torch

    stored = slot.parameter.data
    if stored.numel() and not torch.equal(stored[:1].cpu(), weight[:1]):
        raise CheckpointError(f"{slot.name}: what was written is not what the expert has")
    if slot.multiplies:
        probe = torch.linspace(-1, 1, weight.shape[1]).to(weight.dtype)[None]
        wanted = torch.nn.functional.linear(probe.float(), weight[:_ROWS].float())
        output = slot.module.cpu_linear(probe, stored, None)[:, :_ROWS].float()
        if not torch.allclose(output, wanted, rtol=0, atol=_TOLERANCE * float(wanted.abs().max())):
            raise CheckpointError(f"{slot.name}: its kernel does not multiply by the expert's weight")


def _wait() -> None:
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
