"""Page-locked host memory: a GPU reads it by DMA, without a copy in between."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from symmoe.errors import CapacityError

_CHUNK = 64 << 30
_PORTABLE = 1  # pinned for every device of this process, not only the current one


@contextmanager
def pinned(memory: memoryview, chunk: int = _CHUNK, cudart: Any = None) -> Iterator[bool]:
    """Register writable memory with CUDA for the length of the block; False, and nothing done, where there is no GPU.

    Registering costs seconds per gigabyte on some machines, so do it once, at the start, in the process that copies
    to the GPU. All or nothing: `CapacityError` if CUDA refuses a chunk. CUDA also refuses a copy that crosses from one
    registration into another, so keep `chunk` large, or the copies inside it.
    """
    runtime = cudart or _runtime()
    if runtime is None:
        yield False
        return
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    registered: list[int] = []
    try:
        for address in range(start, start + memory.nbytes, chunk):
            size = min(chunk, start + memory.nbytes - address)
            if code := int(runtime.cudaHostRegister(address, size, _PORTABLE)):
                raise CapacityError(
                    f"CUDA cannot pin {size:,} bytes of host memory (cudaHostRegister gave {code})",
                    hint="raise the limit of locked memory (ulimit -l), or give the host tier fewer bytes",
                )
            registered.append(address)
        yield True
    finally:
        for address in registered:
            runtime.cudaHostUnregister(address)


def _runtime() -> Any:
    import torch

    return torch.cuda.cudart() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
