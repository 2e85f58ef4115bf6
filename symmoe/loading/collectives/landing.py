"""Where chunks are read to: straight into their place in host memory, or through pinned buffers onto a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_POLL_SECONDS = 0.0002


def as_bytes(place: torch.Tensor | memoryview) -> torch.Tensor:
    """The bytes of a contiguous tensor or writable memoryview, as a flat uint8 tensor on the same memory."""
    import torch

    if isinstance(place, memoryview):
        if place.readonly:
            raise ValueError("it is read-only")
        flat = place.cast("B")
        return torch.frombuffer(flat, dtype=torch.uint8) if len(flat) else torch.empty(0, dtype=torch.uint8)
    if not place.is_contiguous():
        raise ValueError("its tensor is not contiguous")
    return place.detach().view(-1).view(torch.uint8)


class Landing:
    """The places of a rank's chunks, and buffers for those that it reads for others or that go on to a GPU.

    So many pinned buffers serve in turn: before one is filled again its copy to the GPU must be done (the round that it
    belonged to was settled), and its check is waited for.
    """

    def __init__(
        self, places: Mapping[int, torch.Tensor], device: torch.device, sizes: Sequence[int], buffers: int
    ) -> None:
        import torch

        self.places = places
        self._device = device
        self._sizes = sizes
        self._given: dict[int, int] = {}
        self._checks: list[Future[None] | None] = [None] * buffers
        self._pinned: list[torch.Tensor] = []
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            largest = max(sizes, default=0)
            self._pinned = [torch.empty(largest, dtype=torch.uint8, pin_memory=True) for _ in range(buffers)]
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Within it GPU work goes to a stream of its own, after what was asked of the device before."""
        import torch

        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def buffer(self, chunk: int) -> torch.Tensor:
        """Host memory to read the chunk into; called by one thread."""
        import torch

        if not self._pinned:
            place = self.places.get(chunk)
            return torch.empty(self._sizes[chunk], dtype=torch.uint8) if place is None else place
        turn = self._given[chunk] = len(self._given) % len(self._pinned)
        check = self._checks[turn]
        if check is not None:
            check.result()
        return self._pinned[turn][: self._sizes[chunk]]

    def in_use(self, chunk: int, check: Future[None]) -> None:
        """Keep the buffer that was given for a chunk until its check is done."""
        if self._pinned:
            self._checks[self._given[chunk]] = check

    def put(self, chunk: int, host: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Copy a chunk from its buffer to its place, if it is not there; the tensor, and what `settle` waits for."""
        import torch

        if not self._pinned:
            return host, None
        place = self.places.get(chunk)
        if place is None:
            place = torch.empty(len(host), dtype=torch.uint8, device=self._device)
        place.copy_(host, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return place, copied

    def settle(self, copied: Any) -> None:
        """Wait for a copy that `put` began."""
        while copied is not None and not copied.query():
            time.sleep(_POLL_SECONDS)
