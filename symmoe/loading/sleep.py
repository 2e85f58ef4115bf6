"""Puts an engine's weights to sleep without copying them out each time, because they never change.

vLLM's own sleep copies every weight to the host each time and drops that copy on waking. An expert's weights are the
same after every wake, so one host image serves them all: sleeping unmaps them, waking maps them and copies in.

Weights that may change must not be tagged as weights, or `forget` must be called after the change: an engine whose
weights are swapped in place, or that keeps LoRA slots, would wake with what it held at its first sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from symmoe.errors import EngineError

State = Literal["RUNNING", "SUSPENDED", "RESUMING"]
HostImages = Callable[[int, int], Any]
"""From an allocation's device address and bytes to its host image, or None where there is none."""

BACKEND = "symmoe"
WEIGHTS = "weights"
host_images: dict[str, HostImages] = {}
"""By allocation tag, where images come from that need not be copied out. Global: vLLM makes the backend itself."""


def register_backend() -> bool:
    """Offer the backend to vLLM as `sleep_mode_backend="symmoe"`; False where vLLM has no such choice (before 0.29).

    Call it in each worker's process before its first sleep; repeated calls are harmless.
    """
    try:
        from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory
    except ImportError:
        return False
    try:
        SleepModeBackendFactory.register_backend(BACKEND, "symmoe.loading.cumem", "ImmutableCuMemBackend")
    except ValueError:  # vLLM refuses a name twice
        return bool(SleepModeBackendFactory.get_backend_class(BACKEND).__module__ == "symmoe.loading.cumem")
    return True


class Allocation(Protocol):
    """One mapped range of device memory, as vLLM's `AllocationData` describes it."""

    handle: Any
    tag: str
    cpu_backup_tensor: Any
    is_asleep: bool


class Memory(Protocol):
    """Memory operations: vLLM's CuMem allocator and CUDA copies, or a test's stand-in."""

    def allocations(self) -> Mapping[int, Allocation]:
        """Every allocation by its device address."""
        ...

    def map(self, allocation: Allocation) -> None:
        """Back the address range with memory of undefined content."""
        ...

    def unmap(self, allocation: Allocation) -> None:
        """Free that memory; the address range stays reserved."""
        ...

    def copy_out(self, address: int, allocation: Allocation) -> Any:
        """A new host image of the allocation's bytes, complete when this returns."""
        ...

    def copy_in(self, address: int, image: Any) -> None:
        """Begin to copy an image to the device; `wait` waits for it."""
        ...

    def size(self, image: Any) -> int:
        """The bytes of an image."""
        ...

    def wait(self) -> None:
        """Return when everything on the device is done."""
        ...


class SleepingWeights:
    """Decides which allocations are unmapped, mapped and copied, and when.

    An image stays with its allocation from the first sleep on (in `cpu_backup_tensor`, so that both are freed
    together). A failure restores the earlier state and raises `EngineError`; where that is impossible, all later calls
    raise it.
    """

    def __init__(self, memory: Memory, images: Mapping[str, HostImages]) -> None:
        self._memory = memory
        self._images = images
        self._broken = ""
        self._resuming = False

    @property
    def state(self) -> State:
        """RUNNING only while every allocation is mapped and filled: a partly awake engine is still SUSPENDED."""
        if self._resuming:
            return "RESUMING"
        asleep = any(allocation.is_asleep for allocation in self._memory.allocations().values())
        return "SUSPENDED" if asleep or self._broken else "RUNNING"

    def suspend(self, level: int = 1) -> None:
        """Unmap everything. Level 1 keeps the weights' images; level 2 drops them, since the caller loads others."""
        self._refuse_if_broken()
        try:
            self._memory.wait()
            if level == 1:
                self._keep_images()
        except Exception as error:
            raise EngineError(
                f"the weights were not copied to the host, so the engine stays awake: {error}",
                hint="free host memory for one image of the weights",
            ) from error
        if level != 1:
            self._drop_images(tags=None)
        self._unmap(tags=None)

    def discard(self, tags: tuple[str, ...]) -> None:
        """Unmap allocations with one of these tags and forget their content. No work may be pending on the device."""
        self._refuse_if_broken()
        self._drop_images(tags)
        self._unmap(tags)

    def resume(self, tags: list[str] | None = None) -> None:
        """Map what sleeps (with one of `tags`, if given) and fill what has an image; returns when all is done.

        Allocations without an image (the KV cache; weights after level 2) have undefined content. After a failure, what
        this call mapped is unmapped again, so that nothing half-filled can be read.
        """
        self._refuse_if_broken()
        begun: list[Allocation] = []
        self._resuming = True
        try:
            for address, allocation in self._memory.allocations().items():
                if allocation.is_asleep and (tags is None or allocation.tag in tags):
                    self._memory.map(allocation)
                    allocation.is_asleep = False
                    begun.append(allocation)
                    if allocation.cpu_backup_tensor is not None:
                        self._memory.copy_in(address, allocation.cpu_backup_tensor)
            self._memory.wait()
        except BaseException as error:
            self._roll_back(begun)
            if not isinstance(error, Exception):
                raise
            raise EngineError(
                f"the engine did not wake and sleeps on: {error}", hint="free device memory, then wake it again"
            ) from error
        finally:
            self._resuming = False

    def forget(self) -> None:
        """Drop the weights' images after the weights were changed, so that the next sleep copies them out again.

        Raises `EngineError` if any are asleep, since their images are then the only copy.
        """
        if any(a.is_asleep and a.cpu_backup_tensor is not None for a in self._memory.allocations().values()):
            raise EngineError("sleeping weights cannot be forgotten", hint="wake the engine first")
        self._drop_images(tags=None)

    def _drop_images(self, tags: tuple[str, ...] | None) -> None:
        """Of what is awake only: what sleeps already keeps what it was put to sleep with."""
        for allocation in self._memory.allocations().values():
            if not allocation.is_asleep and (tags is None or allocation.tag in tags):
                allocation.cpu_backup_tensor = None

    def _keep_images(self) -> None:
        for address, allocation in self._memory.allocations().items():
            if allocation.tag != WEIGHTS or allocation.is_asleep or allocation.cpu_backup_tensor is not None:
                continue
            allocation.cpu_backup_tensor = self._registered(address, allocation)
            if allocation.cpu_backup_tensor is None:
                allocation.cpu_backup_tensor = self._memory.copy_out(address, allocation)

    def _registered(self, address: int, allocation: Allocation) -> Any:
        """The image that stands ready for an allocation; `ValueError` if it cannot be its image."""
        size = int(allocation.handle[1])
        image = self._images[allocation.tag](address, size) if allocation.tag in self._images else None
        if image is not None and self._memory.size(image) != size:
            raise ValueError(
                f"the host image of {size} bytes of {allocation.tag!r} has {self._memory.size(image)} bytes"
            )
        return image

    def _unmap(self, tags: tuple[str, ...] | None) -> None:
        for allocation in self._memory.allocations().values():
            if not allocation.is_asleep and (tags is None or allocation.tag in tags):
                self._unmap_one(allocation)

    def _unmap_one(self, allocation: Allocation) -> None:
        try:
            self._memory.unmap(allocation)
        except Exception as error:
            self._broken = f"an allocation of {allocation.handle[1]} bytes was not unmapped: {error}"
            raise EngineError(self._broken, hint="restart the engine") from error
        allocation.is_asleep = True

    def _roll_back(self, begun: list[Allocation]) -> None:
        try:
            self._memory.wait()  # copies under way must not write into what is unmapped
        except Exception as error:
            self._broken = f"the device failed while waking: {error}"
            raise EngineError(self._broken, hint="restart the engine") from error
        for allocation in begun:
            self._unmap_one(allocation)

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise EngineError(f"the engine's memory is in no known state: {self._broken}", hint="restart the engine")
