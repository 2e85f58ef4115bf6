"""What carries chunks between ranks, and waits for them without hanging for ever.

Transport errors are caught here: their tracebacks hold handles, and a handle keeps connections open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Parcel = tuple[int, int, "torch.Tensor"]
"""A peer, the number of a chunk, and its bytes or the place for them."""
TAGS_BEFORE_CHUNKS = 2
_POLL_SECONDS = 0.0002


class Carrier(Protocol):
    """Carries chunks between ranks; used by one gather at a time, in one thread."""

    patience: timedelta
    """How long a single wait may last, whatever happens."""

    def exchange(
        self, sends: Sequence[Parcel], receives: Sequence[Parcel], handles: list[Any]
    ) -> tuple[int, int] | None:
        """Begin to send and receive, and append handles to wait for, receives first.

        Returns None, or the peer and chunk at which the connection broke; keep the handles until that is reported.
        """
        ...

    def wait(self, handles: list[Any], stopped: Callable[[], bool]) -> bool:
        """Wait for the first handle and remove it if it succeeded; False if the connection broke."""
        ...

    def forget(self) -> None:
        """Drop what was kept for a gather that has ended."""
        ...

    def abort(self) -> None:
        """Abort transfers under way, except those on the group's own connections. Safe from any thread."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


@dataclass(slots=True)
class _Message:
    chunk: Any
    word: Any = None
    answer: tuple[int, int] | None = None


class GlooCarrier:
    """Chunks through gloo, between host memories.

    When a connection breaks, gloo wakes waits for a message that has not begun, but not for one in transit, so waiting
    for a chunk itself could hang. Each chunk is therefore followed and acknowledged by an empty message, and only these
    are waited for first: without bytes, they are never in transit.
    """

    def __init__(self, gloo: Any) -> None:
        self.patience = timedelta(minutes=5)
        self._gloo = gloo
        self._kept: list[Any] = []

    def exchange(
        self, sends: Sequence[Parcel], receives: Sequence[Parcel], handles: list[Any]
    ) -> tuple[int, int] | None:
        """Begin each transfer separately."""
        peer = chunk = 0
        with suppress(RuntimeError):
            for peer, chunk, tensor in receives:
                tag = TAGS_BEFORE_CHUNKS + 3 * chunk
                handles.append(_Message(self._gloo.recv([tensor], peer, tag), answer=(peer, tag + 2)))
                handles[-1].word = self._gloo.recv([_empty()], peer, tag + 1)
            for peer, chunk, tensor in sends:
                tag = TAGS_BEFORE_CHUNKS + 3 * chunk
                handles.append(_Message(self._gloo.send([tensor], peer, tag)))
                self._kept.append(self._gloo.send([_empty()], peer, tag + 1))
                handles[-1].word = self._gloo.recv([_empty()], peer, tag + 2)
            return None
        return peer, chunk

    def wait(self, handles: list[Any], stopped: Callable[[], bool]) -> bool:
        """Wait for the empty message that follows a chunk or acknowledges it; the chunk's own handle is then done."""
        message = handles[0]
        with suppress(RuntimeError):
            if message.word.wait(self.patience) and message.chunk.wait(self.patience):
                if message.answer is not None:
                    self._kept.append(self._gloo.send([_empty()], *message.answer))
                del handles[0]
                return True
        return False

    def forget(self) -> None:
        """Drop the handles of empty messages that were sent."""
        self._kept.clear()

    def abort(self) -> None:
        """Nothing to do: these are the group's own connections."""

    def close(self) -> None:
        """Release the connections."""
        self._kept.clear()
        self._gloo = None


class NcclCarrier:
    """Chunks through NCCL, between GPUs.

    A round is one operation, which cannot deadlock as long as all ranks run the rounds in the same order.
    """

    def __init__(self, nccl: Any) -> None:
        self.patience = timedelta(minutes=5)
        self._nccl = nccl

    def exchange(
        self, sends: Sequence[Parcel], receives: Sequence[Parcel], handles: list[Any]
    ) -> tuple[int, int] | None:
        """Begin all transfers as one operation. NCCL does not say which peer failed, so the first one is named."""
        with suppress(RuntimeError):
            if sends or receives:
                self._nccl._start_coalescing()
                for peer, chunk, tensor in receives:
                    self._nccl.recv([tensor], peer, TAGS_BEFORE_CHUNKS + chunk)
                for peer, chunk, tensor in sends:
                    self._nccl.send([tensor], peer, TAGS_BEFORE_CHUNKS + chunk)
                handles.append(self._nccl._end_coalescing())
            return None
        peer, chunk, _ = (*receives, *sends)[0]
        return peer, chunk

    def wait(self, handles: list[Any], stopped: Callable[[], bool]) -> bool:
        """Poll until it is done: NCCL's own wait only orders streams, and a lost peer leaves kernels spinning."""
        until = time.monotonic() + self.patience.total_seconds()
        with suppress(RuntimeError):
            while not handles[0].is_completed():
                if stopped() or time.monotonic() > until:
                    return False
                time.sleep(_POLL_SECONDS)
            handles[0].wait()  # raises if it is complete because its communicator failed
            del handles[0]
            return True
        return False

    def forget(self) -> None:
        """Nothing is kept."""

    def abort(self) -> None:
        """Abort the communicator and the kernels that wait in it."""
        if self._nccl is not None:
            with suppress(RuntimeError):
                self._nccl.abort()

    def close(self) -> None:
        """Abort the communicator and release it."""
        self.abort()
        self._nccl = None


def _empty() -> torch.Tensor:
    import torch

    return torch.empty(0, dtype=torch.uint8)
