"""Ranks that gather together, connected on their own: no default group, and nothing of the engine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from symmoe.errors import CollectiveError

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

Backend = Literal["gloo", "nccl"]
DONE, _NOBODY, _FIRST_CHUNK = 0, 1, 2
_UNTIL_BROKEN_OFF = timedelta(days=1)
_POLL_SECONDS = 0.0002


def open_group(
    store: Store, rank: int, size: int, *, backend: Backend = "gloo", device: str | None = None, timeout: float = 30.0
) -> GatherGroup:
    """Connect `size` ranks, each of which calls this; `CollectiveError` if not all come within `timeout` seconds.

    `store` is where ranks find each other and leave word of failures: a `TCPStore` of the process that started the
    ranks and outlives them, or on one machine a `FileStore`. `nccl` carries chunks between GPUs, this rank's being
    `device` ("cuda:0"); gloo, which follows `GLOO_SOCKET_IFNAME`, carries them in host memory and watches over either.
    """
    import torch
    from torch.distributed import PrefixStore, ProcessGroupGloo  # type: ignore[attr-defined]

    if backend == "gloo" and device is not None and size > 1 and torch.device(device).type != "cpu":
        raise CollectiveError(f"rank {rank}: gloo does not carry what is on {device}", hint='use backend="nccl"')
    control = data = None
    if size > 1:
        try:
            # late ranks are waited for here; what waits later is broken off by the gather's own clock
            control = ProcessGroupGloo(PrefixStore("gloo", store), rank, size, timedelta(seconds=timeout))
            data = control if backend == "gloo" else _nccl(PrefixStore("nccl", store), rank, size, device, timeout)
        except RuntimeError as error:
            control = data = None
            raise CollectiveError(
                f"rank {rank}: the {size} ranks did not all connect within {timeout:g} s ({_first_line(error)})",
                rank=rank,
                hint="see that all were started with the same store and size, and can reach each other",
            ) from error
    return GatherGroup(store, rank, size, torch.device(device or "cpu"), control, data)


class GatherGroup:
    """The connections of one rank to the others. A group serves many gathers, one at a time, until one fails."""

    def __init__(
        self, store: Store, rank: int, size: int, device: torch.device, control: Any = None, data: Any = None
    ) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self.gathers = 0
        """How many gathers began: what they leave in the store is told apart by it."""
        self._store = store
        self._control = control
        self._data = data

    @property
    def closed(self) -> bool:
        """Whether the group was closed, by its owner or by a failure."""
        return self._store is None

    def next_store(self) -> Store:
        """A part of the store for the next gather."""
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        if self.closed:
            raise CollectiveError(f"rank {self.rank}: the group is closed", hint="open another: a failure ends a group")
        self.gathers += 1
        return PrefixStore(f"gather/{self.gathers}", self._store)

    def say_done(self, peer: int) -> Any:
        """Begin to tell a peer that this rank has all that it demands."""
        import torch

        return self._control.send([torch.ones(1, dtype=torch.uint8)], peer, DONE)

    def hear_done(self, peer: int) -> Any:
        """Begin to wait for a peer's word that it has all."""
        import torch

        return self._control.recv([torch.empty(1, dtype=torch.uint8)], peer, DONE)

    def exchange(
        self, sends: Sequence[tuple[int, int, torch.Tensor]], receives: Sequence[tuple[int, int, torch.Tensor]]
    ) -> list[Any]:
        """Begin to send and receive bytes, each given as (peer, chunk, tensor): handles to wait for.

        NCCL is given all of them as one operation, which cannot deadlock while all ranks keep to the same order.
        """
        if not sends and not receives:
            return []
        as_one = self._data is not self._control
        if as_one:
            self._data._start_coalescing()
        works = [self._data.recv([tensor], peer, chunk + _FIRST_CHUNK) for peer, chunk, tensor in receives]
        works += [self._data.send([tensor], peer, chunk + _FIRST_CHUNK) for peer, chunk, tensor in sends]
        return [self._data._end_coalescing()] if as_one else works

    def wait(self, works: list[Any], stopped: Callable[[], bool]) -> None:
        """Wait for the first of the handles and drop it. Raises `RuntimeError` if its connection is broken off.

        A handle keeps connections open, so none may outlive an error in a variable of its traceback.
        """
        if self._data is self._control:
            self.wait_for_word(works)
            return
        # waiting for NCCL would only order streams, and a lost peer leaves its kernels spinning
        while not works[0].is_completed():
            if stopped():
                works.clear()
                raise RuntimeError("broken off")
            time.sleep(_POLL_SECONDS)
        del works[0]

    def wait_for_word(self, works: list[Any]) -> None:
        """The same for what `say_done` and `hear_done` gave."""
        if not works.pop(0).wait(_UNTIL_BROKEN_OFF):
            raise RuntimeError("broken off")

    def break_off(self) -> None:
        """Break all connections, here and at the peers, so that nobody waits any more. Any thread may do it."""
        import torch

        control, data = self._control, self._data
        if control is None:
            return
        # gloo has no abort that wakes those who wait, but an operation out of time closes every connection
        nothing = torch.empty(1, dtype=torch.uint8)
        for peer in range(self.size):
            if peer != self.rank:
                with suppress(RuntimeError):
                    control.recv([nothing], peer, _NOBODY).wait(timedelta(milliseconds=1))
        if data is not control:
            with suppress(RuntimeError):
                data.abort()

    def close(self) -> None:
        """Drop the connections and their threads. Safe to call twice."""
        if self._data is not None and self._data is not self._control:
            with suppress(RuntimeError):
                self._data.abort()
        self._control = self._data = None
        self._store = None  # type: ignore[assignment]

    def __enter__(self) -> GatherGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _nccl(store: Store, rank: int, size: int, device: str | None, timeout: float) -> Any:
    import torch
    from torch.distributed import ProcessGroupNCCL

    if device is None:
        raise CollectiveError(f"rank {rank}: an NCCL group needs the rank's device", hint='give device="cuda:N"')
    torch.cuda.set_device(device)
    options = ProcessGroupNCCL.Options()
    # NCCL's own watchdog ends the process; ours is sooner and says why
    options._timeout = timedelta(days=1)
    group: Any = ProcessGroupNCCL(store, rank, size, options)
    # the communicator is made at the first operation, in which every rank must take part
    work = group.allreduce([torch.ones(1, device=device)])
    until = time.monotonic() + timeout
    while not work.is_completed():
        if time.monotonic() > until:
            group.abort()
            raise RuntimeError(f"no NCCL communicator within {timeout:g} s")
        time.sleep(_POLL_SECONDS)
    return group


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
