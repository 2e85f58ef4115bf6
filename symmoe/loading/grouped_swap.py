"""Other weights of the same shape in a running engine: write what differs, rebind what is still held, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from symmoe.errors import CheckpointError
from symmoe.loading.binding import Slot, slots_of, weight_of, write
from symmoe.loading.cpu_kernels import Kernel, KernelCache, Tags, make_kernel
from symmoe.loading.packed.checkpoint import PackedCheckpoint

if TYPE_CHECKING:
    import torch

_PROBES, _ROWS = 3, 256
_TOLERANCE = 0.02  # of the largest product: bf16 products summed in another order


class Binding:
    """The weights of one running model, tensor by tensor.

    `tags` say what is in it now: a swap writes only tensors whose tag differs. After a failure nothing is known, and
    the next swap writes all of them.
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
        """Take note of the experts that come next, soonest first."""
        known = [self._experts[key] for key in keys if key in self._experts]
        self._kernels.expect([self._wanted(tags) for tags in known])

    def rebind(self, key: str) -> bool:
        """Serve an expert that is still held here; False, and nothing changed, if some of it must be brought again."""
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
        """Serve the expert of `image`; bytes written or made into kernels.

        Raises `CheckpointError` if a shape differs or what was written does not multiply as the image says.
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
        kept = self._kernels.get(slot.tags(tags))
        if kept:
            slot.module.cpu_linear = kept.multiply
            return
        rows, columns = _shape(slot)
        self._kernels.put(slot.tags(tags), Kernel(slot.module.cpu_linear, rows * columns * 2))


def _shape(slot: Slot) -> tuple[int, int]:
    module = slot.module
    if slot.parameter.numel():
        rows, columns = slot.parameter.shape
        return int(rows), int(columns)
    return int(module.output_size_per_partition), int(module.input_size_per_partition)


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
        got = slot.module.cpu_linear(probe, stored, None)[:, :_ROWS].float()
        if not torch.allclose(got, wanted, rtol=0, atol=_TOLERANCE * float(wanted.abs().max())):
            raise CheckpointError(f"{slot.name}: its kernel does not multiply by the expert's weight")


def _wait() -> None:
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
