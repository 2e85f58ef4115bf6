"""`symmoe.loading.sleep` as a sleep-mode backend of vLLM on CUDA. vLLM's factory imports it when it is chosen."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import torch
from vllm.device_allocator.cumem import CuMemAllocator, create_and_map, cumem_available, unmap_and_release
from vllm.device_allocator.sleep_mode_backend import SleepModeBackend
from vllm.platforms import current_platform

from symmoe.errors import EngineError
from symmoe.loading.sleep import Allocation, SleepingWeights, State, host_images


class CuMemory:
    """The memory of vLLM's CuMem allocator; copies run on one stream of their own."""

    def __init__(self) -> None:
        self._allocator = CuMemAllocator.get_instance()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def allocations(self) -> Mapping[int, Allocation]:
        """What vLLM's allocator holds, by address."""
        held: Mapping[int, Allocation] = self._allocator.pointer_to_data
        return held

    def map(self, allocation: Allocation) -> None:
        """Back the range with new physical memory."""
        create_and_map(allocation.handle)

    def unmap(self, allocation: Allocation) -> None:
        """Free the physical memory."""
        unmap_and_release(allocation.handle)

    def copy_out(self, address: int, allocation: Allocation) -> torch.Tensor:
        """The bytes as a pinned tensor, which torch rounds up to a power of two."""
        image = torch.empty(int(allocation.handle[1]), dtype=torch.uint8, pin_memory=True)
        image.copy_(_view(address, image.nbytes))
        return image

    def copy_in(self, address: int, image: torch.Tensor) -> None:
        """Enqueue the copy; it returns at once only if the image is pinned."""
        with torch.cuda.stream(self._stream):
            _view(address, image.nbytes).copy_(image, non_blocking=True)

    def size(self, image: torch.Tensor) -> int:
        """The bytes of a tensor."""
        return int(image.nbytes)

    def wait(self) -> None:
        """Synchronise the device."""
        torch.cuda.synchronize()


class ImmutableCuMemBackend(SleepModeBackend):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """`--sleep-mode-backend symmoe`: weights are copied to the host at most once, never if an image is known."""

    def __init__(self) -> None:
        super().__init__()
        self._weights = SleepingWeights(CuMemory(), host_images)

    def suspend(self, level: int = 1) -> None:
        """Free the device memory of weights and KV cache. Level 2 keeps nothing: the caller reloads the weights."""
        gc.collect()  # tensors that die while memory is unmapped would have theirs unmapped twice
        self._weights.suspend(level)
        torch.cuda.empty_cache()

    def resume(self, tags: list[str] | None = None) -> None:
        """Restore the memory and fill it; `tags` limits that to `weights` or `kv_cache`."""
        gc.collect()
        torch.cuda.empty_cache()
        self._weights.resume(tags)

    def discard(self, tags: tuple[str, ...] | str) -> None:
        """Unmap allocations with these tags without an image; newer vLLM calls this."""
        torch.cuda.synchronize()
        self._weights.discard((tags,) if isinstance(tags, str) else tuple(tags))

    def forget(self) -> None:
        """Must be called after weights were changed in place."""
        self._weights.forget()

    def state(self) -> State:
        """RUNNING, SUSPENDED (also while partly awake) or RESUMING."""
        return self._weights.state

    @classmethod
    def is_supported(cls) -> bool:
        """True on CUDA with vLLM's allocator. ROCm's keeps its mappings differently."""
        return bool(cumem_available and current_platform.is_cuda())

    @classmethod
    def preserves_communicators(cls) -> bool:
        """True: NCCL's buffers lie outside the allocator."""
        return True


def _view(address: int, size: int) -> Any:
    """The bytes at a device address as a tensor, not a copy."""

    class Range:
        __cuda_array_interface__ = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 2}  # noqa: RUF012

    view = torch.as_tensor(Range(), device="cuda")
    if view.data_ptr() != address:  # torch made a copy: what is written there would be lost
        raise EngineError(f"device memory at {address:#x} belongs to another GPU than {view.device}")
    return view
