"""The GPU, or the CPU in its stead: a dry run runs the same code without streams, and its times mean nothing."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch

_PORTABLE, _MAPPED = 1, 2


class Cuda:
    """The current CUDA device."""

    device = "cuda"
    dry = False

    def name(self) -> str:
        """What the driver calls the device."""
        return torch.cuda.get_device_name()

    def synchronize(self) -> None:
        """Wait for everything."""
        torch.cuda.synchronize()

    def stream(self) -> Any:
        """A new stream."""
        return torch.cuda.Stream()

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """What is enqueued inside runs on `stream`."""
        return torch.cuda.stream(stream)

    def mark(self) -> Any:
        """A point on the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def await_mark(self, mark: Any) -> None:
        """The current stream goes on only when `mark` is reached."""
        torch.cuda.current_stream().wait_event(mark)

    def between(self, begin: Any, end: Any) -> float:
        """Seconds between two marks that were reached."""
        return float(begin.elapsed_time(end)) / 1000

    def free_bytes(self) -> int:
        """Device memory that is free."""
        return int(torch.cuda.mem_get_info()[0])

    def release(self) -> None:
        """Give memory that torch keeps back to the device."""
        torch.cuda.empty_cache()

    def pin(self, tensor: torch.Tensor) -> None:
        """Register host memory with CUDA as one range that kernels may read too. Raises `RuntimeError`."""
        code = torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, _PORTABLE | _MAPPED)
        if int(code):
            with suppress(RuntimeError):
                torch.zeros(1, device="cuda")  # takes up the error, which CUDA would tell the next launch again
            raise RuntimeError(f"cudaHostRegister of {tensor.nbytes} bytes failed with error {int(code)}")

    def unpin(self, tensor: torch.Tensor) -> None:
        """Undo `pin`."""
        torch.cuda.cudart().cudaHostUnregister(tensor.data_ptr())


class Cpu:
    """The CPU. Everything is done when it returns, so there is nothing to wait for."""

    device = "cpu"
    dry = True

    def name(self) -> str:
        """Says that this is no GPU."""
        return "none (dry run on the CPU)"

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def stream(self) -> Any:
        """There are none."""
        return None

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Runs as everything runs."""
        return nullcontext(stream)

    def mark(self) -> Any:
        """Now."""
        return time.perf_counter()

    def await_mark(self, mark: Any) -> None:
        """It was reached when it was made."""

    def between(self, begin: Any, end: Any) -> float:
        """Seconds between two marks."""
        return float(end - begin)

    def free_bytes(self) -> int:
        """Not asked in earnest."""
        return 1 << 62

    def release(self) -> None:
        """Nothing is kept."""

    def pin(self, tensor: torch.Tensor) -> None:
        """The CPU reads any memory."""

    def unpin(self, tensor: torch.Tensor) -> None:
        """Nothing was pinned."""


Place = Cuda | Cpu
