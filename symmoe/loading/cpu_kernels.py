"""Weights in the form that the CPU's matrix kernels want: made once, shared, and kept under a byte budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Tags = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One weight as the CPU's kernel holds it: the call that multiplies by it, and its bytes."""

    multiply: Callable[..., Any]
    nbytes: int


class KernelCache:
    """Kernels by the tags of the tensors that they were made of. Equal tags mean equal bytes, so experts share them.

    Those that are not in use are kept up to `budget` bytes. What is needed again last, by the order that was announced,
    goes first (Belady), and among what it does not name, what was used longest ago.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: OrderedDict[Tags, Kernel] = OrderedDict()
        self._next_use: dict[Tags, int] = {}

    def expect(self, experts: Sequence[Collection[Tags]]) -> None:
        """Take note of the kernels of the experts that come next, soonest first."""
        self._next_use = {}
        for turn, wanted in enumerate(experts):
            for tags in wanted:
                self._next_use.setdefault(tags, turn)

    def get(self, tags: Tags) -> Kernel | None:
        """The kernel of these tensors, if it is kept."""
        return self._kept.get(tags)

    def put(self, tags: Tags, kernel: Kernel) -> None:
        """Keep a kernel; `use` decides what must go for it."""
        self._kept[tags] = kernel

    def use(self, wanted: Collection[Tags]) -> None:
        """Say which kernels the engine multiplies by from now on, and let go of what is over the budget."""
        for tags in wanted:
            self._kept.move_to_end(tags)
        in_use = frozenset(wanted)
        idle = [tags for tags in self._kept if tags not in in_use]
        over = sum(self._kept[tags].nbytes for tags in idle) - self.budget
        never = len(self._next_use)
        for tags in sorted(idle, key=lambda tags: self._next_use.get(tags, never), reverse=True):
            if over <= 0:
                return
            over -= self._kept.pop(tags).nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all kernels kept, in use or not."""
        return sum(kernel.nbytes for kernel in self._kept.values())


def make_kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel:
    """Have vLLM choose and fill its CPU kernel for a weight `[out, in]`, without touching any layer of the model."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    layer = SimpleNamespace(weight=weight, bias=bias)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    return Kernel(layer.cpu_linear, weight.numel() * weight.element_size())
