"""`cudaMemcpyBatchAsync` through ctypes: many copies in one call of the CUDA runtime (12.8 and newer)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_loading.trial import UnavailableError

Copies = Sequence[tuple[int, int, int]]
"""Target address, source address, bytes."""
_STREAM_ORDER = 1  # cudaMemcpySrcAccessOrderStream
_WITHOUT_FAIL_INDEX = 13000


class Attributes(ctypes.Structure):
    """`cudaMemcpyAttributes`: the order of access, two hints that pinned memory does not need, flags."""

    _fields_ = [
        ("order", ctypes.c_int),
        ("hints", ctypes.c_int * 4),
        ("flags", ctypes.c_uint),
    ]


def find_batch_copy(runtime: Any = None) -> Callable[[Copies, int], None]:
    """The call, bound to the CUDA runtime that torch loaded. Raises `UnavailableError` where there is none."""
    runtime = runtime or _loaded_runtime()
    if not hasattr(runtime, "cudaMemcpyBatchAsync"):
        raise UnavailableError("this CUDA runtime has no cudaMemcpyBatchAsync (it came with 12.8)")
    version = ctypes.c_int(0)
    runtime.cudaRuntimeGetVersion(ctypes.byref(version))
    with_fail_index = version.value < _WITHOUT_FAIL_INDEX

    def batch_copy(copies: Copies, stream: int) -> None:
        """Enqueue all copies on `stream`, which must not be the default one; `RuntimeError` if CUDA refuses."""
        columns = [np.array(column, dtype=np.uint64) for column in zip(*copies, strict=True)]
        failed = ctypes.c_size_t(2**64 - 1)
        code = runtime.cudaMemcpyBatchAsync(
            *(ctypes.c_void_p(column.ctypes.data) for column in columns),
            ctypes.c_size_t(len(copies)),
            ctypes.byref(Attributes(order=_STREAM_ORDER)),
            ctypes.byref(ctypes.c_size_t(0)),  # the first copy that the attributes hold for
            ctypes.c_size_t(1),
            *([ctypes.byref(failed)] if with_fail_index else []),
            ctypes.c_void_p(stream),
        )
        if code:
            raise RuntimeError(f"cudaMemcpyBatchAsync failed with error {code}")

    return batch_copy


def _loaded_runtime() -> ctypes.CDLL:
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if "libcudart" in line:
            return ctypes.CDLL(line.split(maxsplit=5)[-1])
    raise UnavailableError("no libcudart is loaded: torch has it linked in, or is no CUDA build")
