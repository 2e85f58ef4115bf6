"""Ranks that gather together, connected on their own: no default group, and nothing of the engine's."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.carriers import TAGS_BEFORE_CHUNKS, Carrier, GlooCarrier, NcclCarrier

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

Backend = Literal["gloo", "nccl"]
_DONE, _NOBODY = range(TAGS_BEFORE_CHUNKS)
_MARGIN_SECONDS = 5.0
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
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    if backend == "gloo" and device is not None and size > 1 and torch.device(device).type != "cpu":
        raise CollectiveError(f"rank {rank}: gloo does not carry what is on {device}", hint='use backend="nccl"')
    control, carrier = None, None
    try:
        # what an earlier group left in the store is not this one's
        part = PrefixStore(f"group/{store.add(f'opened/{rank}', 1)}", store)
        if size > 1:
            control, carrier = _connect(part, rank, size, backend, device, timeout)
    except RuntimeError as error:
        raise CollectiveError(
            f"rank {rank}: the {size} ranks did not all connect within {timeout:g} s ({_first_line(error)})",
            rank=rank,
            hint="see that all were started with the same store and size, and can reach each other",
        ) from error
    return GatherGroup(part, rank, size, torch.device(device or "cpu"), control, carrier)


class GatherGroup:
    """The connections of one rank to the others. A group serves many gathers, one at a time, until one fails."""

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        device: torch.device,
        control: Any = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self.gathers = 0
        """How many gathers began: what they leave in the store is told apart by it."""
        self._store = store
        self._control = control
        self.carrier = carrier
        """What carries chunks; None for a rank alone."""
        self.patience = timedelta(minutes=5)
        """How long a single wait may last, whatever happens."""

    @property
    def closed(self) -> bool:
        """Whether the group was closed, by its owner or by a failure."""
        return self._store is None

    def say_done(self, peer: int) -> Any:
        """Begin to tell a peer that this rank has all that it demands: a handle, or None if cut off."""
        import torch

        with suppress(RuntimeError):
            return self._control.send([torch.empty(0, dtype=torch.uint8)], peer, _DONE)
        return None

    def hear_done(self, peer: int) -> Any:
        """Begin to wait for a peer's word that it has all: a handle, or None if cut off."""
        import torch

        with suppress(RuntimeError):
            return self._control.recv([torch.empty(0, dtype=torch.uint8)], peer, _DONE)
        return None

    def wait_for_word(self, handles: list[Any]) -> bool:
        """Wait for the first handle that `say_done` or `hear_done` gave, and drop it; False if cut off."""
        handle = handles.pop(0)
        with suppress(RuntimeError):
            return handle is not None and bool(handle.wait(self.patience))
        return False

    def next_gather(self, timeout: float) -> Store:
        """Make ready for a gather that gives up after `timeout` seconds; a part of the store for it."""
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        if self.closed:
            raise CollectiveError(f"rank {self.rank}: the group is closed", hint="open another: a failure ends a group")
        self.gathers += 1
        # it is the gather that gives up; this is for what it could not wake
        self.patience = timedelta(seconds=2 * timeout + _MARGIN_SECONDS)
        if self.carrier is not None:
            self.carrier.patience = self.patience
        return PrefixStore(f"gather/{self.gathers}", self._store)

    def break_off(self) -> None:
        """Break all connections, here and at the peers, so that nobody waits any more. Any thread may do it."""
        import torch

        control = self._control
        if control is None:
            return
        # gloo has no abort that wakes those who wait, but an operation out of time closes every connection
        nothing = torch.empty(1, dtype=torch.uint8)
        for peer in range(self.size):
            if peer != self.rank:
                with suppress(RuntimeError):
                    control.recv([nothing], peer, _NOBODY).wait(timedelta(milliseconds=1))
        if self.carrier is not None:
            self.carrier.abort()

    def close(self) -> None:
        """Drop the connections and their threads. Safe to call twice."""
        if self.carrier is not None:
            self.carrier.close()
        self._control = self.carrier = None
        self._store = None  # type: ignore[assignment]

    def __enter__(self) -> GatherGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(
    store: Store, rank: int, size: int, backend: Backend, device: str | None, timeout: float
) -> tuple[Any, Carrier]:
    from torch.distributed import PrefixStore, ProcessGroupGloo  # type: ignore[attr-defined]

    control = ProcessGroupGloo(PrefixStore("gloo", store), rank, size, timedelta(seconds=timeout))
    carrier: Carrier
    if backend == "gloo":
        carrier = GlooCarrier(control)
    else:
        carrier = NcclCarrier(_nccl(PrefixStore("nccl", store), rank, size, device, timeout))
    # a rank that closes its group while others still connect would break their connecting
    store.set(f"connected/{rank}", "")
    store.wait([f"connected/{peer}" for peer in range(size)], timedelta(seconds=timeout))
    return control, carrier


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
