"""symmoe's extension of vLLM's worker: it changes the weights of a running engine."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

TRANSFER = "symmoe"


class SwapExtension:
    """Mixed into vLLM's `Worker` by `worker_extension_cls`; called through `collective_rpc`.

    The worker imports this module before it builds its weight-transfer engine, so that is registered here.
    """

    weight_transfer_engine: Any
    start_weight_update: Any
    update_weights: Any
    finish_weight_update: Any
    model_runner: Any

    def symmoe_swap(self, update: dict[str, Any]) -> int:
        """Write an expert's weights as one weight update in vLLM's own life cycle; returns the bytes moved.

        The caller must have stopped generation, and must clear the prefix cache afterwards.
        """
        self.start_weight_update()
        self.update_weights(update)
        self.finish_weight_update()
        backend = getattr(self, "_sleep_mode_backend", None)
        if backend is not None and hasattr(backend, "forget"):
            backend.forget()  # what it keeps of the weights is the expert's before
        return int(self.weight_transfer_engine.moved)

    def symmoe_rebind(self, key: str) -> bool:
        """Serve an expert that this worker still holds; False if it does not."""
        return bool(self.weight_transfer_engine.rebind(key))

    def symmoe_expect(self, keys: Sequence[str]) -> None:
        """Set the experts that come next, soonest first."""
        self.weight_transfer_engine.expect(keys)

    def symmoe_give_back(self) -> None:
        """Return the KV cache's memory to the machine. Its content is lost, so no prompt may stay cached.

        For a CPU. Pages come back as zeros, each when it is next written.
        """
        for address, nbytes in {_extent(tensor) for tensor in _tensors(self.model_runner.kv_caches)}:
            give_back(address, nbytes)


def give_back(address: int, nbytes: int) -> None:
    """Return the whole pages of private memory in a range to the machine. Raises `OSError`."""
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    libc = ctypes.CDLL(None, use_errno=True)
    if length > 0 and libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED):
        raise OSError(ctypes.get_errno(), "the memory of keys and values was not given back")


def _tensors(caches: Any) -> Iterator[Any]:
    """The tensors of vLLM's caches, which may be lists of several for a layer."""
    for cache in caches:
        if isinstance(cache, list | tuple):
            yield from _tensors(cache)
        else:
            yield cache


def _extent(tensor: Any) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _register() -> None:
    """Tell vLLM of the weight-transfer engine, once for each process."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if TRANSFER not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(TRANSFER, "symmoe.loading.weight_transfer", "GroupedSwapEngine")


_register()
