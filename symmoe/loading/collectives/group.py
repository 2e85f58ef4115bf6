"""Ranks that gather together over connections of their own, apart from torch's default group and the engine's.

When something goes wrong, a gather ends on every rank with the same cause.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from symmoe.errors import CollectiveError, first_line
from symmoe.loading.collectives.carriers import TAGS_BEFORE_CHUNKS, Carrier, GlooCarrier, NcclCarrier

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

Awaited = tuple[int, int | None]
"""A rank, and the chunk that is awaited from it, if it is about a chunk."""
_GRACE_SECONDS = 1.0
_ALARM_POLL_SECONDS = 0.002
Backend = Literal["gloo", "nccl"]
_DONE, _NOBODY = range(TAGS_BEFORE_CHUNKS)
_MARGIN_SECONDS = 5.0
_POLL_SECONDS = 0.0002


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: at which rank, at which chunk if any, and which rank found it."""

    rank: int
    chunk: int | None
    what: str
    found_by: int

    def error(self) -> CollectiveError:
        """The error that every rank raises."""
        where = f"rank {self.rank}" if self.chunk is None else f"rank {self.rank}, chunk {self.chunk}"
        return CollectiveError(
            f"{where}: {self.what} (found by rank {self.found_by})",
            rank=self.rank,
            chunk=self.chunk,
            hint="the group is closed and what was gathered may be incomplete; open another group, or copy alone",
        )


class Alarm:
    """Watches a gather for failures and holds the first one, which is the same on all ranks.

    A rank that finds a failure writes it to the store, which keeps the first, and breaks its connections. That wakes
    its peers, which find the cause in the store and do the same. Two threads watch: one waits for each peer's message
    that it is done, and so notices a peer's death; the other ends the gather when its time is up.
    """

    def __init__(self, group: GatherGroup, timeout: float, owed: Callable[[int], int | None]) -> None:
        self.failure: Failure | None = None
        self.awaiting: Awaited | None = None
        """What the gather waits for at the moment, kept up to date by the gather."""
        self._group = group
        self._timeout = timeout
        self._owed = owed
        self._peers = [(group.rank + step) % group.size for step in range(1, group.size)]
        self._watched = group.rank
        self._heard: dict[int, list[Any]] = {}
        self._store: Store | None = None
        self._started = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._failed = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, plan: str) -> None:
        """Begin to watch, and wait until all ranks have arrived with the same plan."""
        self._store = self._group.next_gather(self._timeout)
        self._started = True
        for peer in self._peers:
            self._heard[peer] = [self._group.hear_done(peer)]
        self._begin(self._watch)
        self._meet(plan)
        self._begin(self._limit)

    def fail(self, rank: int, chunk: int | None, what: str) -> CollectiveError:
        """Report a failure unless one came before, and return the error to raise. Safe from any thread."""
        with self._lock:
            if self.failure is None:
                self.failure = self._first(Failure(rank, chunk, what, self._group.rank))
                if self._started:
                    self._group.break_off()
                self._failed.set()
        return self.failure.error()

    def lost(self, awaited: Awaited) -> CollectiveError:
        """Report that the connection to a rank broke, and return the error to raise."""
        return self.fail(*awaited, "the rank is gone, its connection closed")

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure.error()

    def stopped(self) -> bool:
        """Whether there is a failure."""
        return self.failure is not None

    def finish(self) -> None:
        """Tell all ranks that this one is done, and wait until all are."""
        self.awaiting = None
        words = [self._group.say_done(peer) for peer in self._peers]
        self._threads[0].join()  # gloo may never end what is sent while a connection closes; this ends in any case
        if self.failure is None:
            for peer in self._peers:
                if not self._group.wait_for_word(words):
                    self.lost((peer, self._owed(peer)))
                    break
        words.clear()
        self.check()

    def stop(self) -> None:
        """Stop the watching threads; after a failure also close the group."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._heard.clear()
        if self._group.carrier is not None:
            self._group.carrier.forget()
        self._store = None
        if self._started and self.failure is not None:
            self._group.close()

    def _begin(self, watch: Callable[[], None]) -> None:
        thread = threading.Thread(target=watch, name=f"gather{watch.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _first(self, found: Failure) -> Failure:
        """The failure that was reported first, by whichever rank."""
        if self._store is None:
            return found
        try:
            kept = self._store.compare_set("failure", "", json.dumps(asdict(found)))
            return Failure(**json.loads(kept))
        except RuntimeError:  # whoever hosts the store is gone: what was found here must do
            return found

    def exchange(self, what: str, own: bytes) -> list[bytes]:
        """Send `own` to all ranks, and return what each rank sent, by rank."""
        store, ranks = self._store, range(self._group.size)
        until = time.monotonic() + self._timeout
        assert store is not None, "exchanges are between `start` and `stop`"  # noqa: S101
        try:
            store.set(f"{what}/{self._group.rank}", own)  # type: ignore[arg-type]  # it takes bytes too
            while not store.check([f"{what}/{rank}" for rank in ranks]):
                self.check()
                if time.monotonic() > until:
                    late = next((rank for rank in ranks if not store.check([f"{what}/{rank}"])), self._group.rank)
                    raise self.fail(late, None, f"did not come within {self._timeout:g} s")
                time.sleep(_ALARM_POLL_SECONDS)
            return [store.get(f"{what}/{rank}") for rank in ranks]
        except RuntimeError:
            # its host may be the rank that was lost: then the watch is about to say so
            self._failed.wait(_GRACE_SECONDS)
            raise self.fail(self._group.rank, None, "cannot reach the store") from None

    def _meet(self, plan: str) -> None:
        plans = self.exchange("plan", plan.encode())
        other = next((rank for rank, its in enumerate(plans) if its != plans[0]), None)
        if other is not None:
            raise self.fail(other, None, "was given another plan than rank 0")

    def _watch(self) -> None:
        for peer in self._peers:
            self._watched = peer
            if not self._group.wait_for_word(self._heard[peer]):
                self.lost((peer, self._owed(peer)))
                return

    def _limit(self) -> None:
        if self._over.wait(self._timeout):
            return
        store, rank = self._store, self._group.rank
        awaited = self.awaiting or (self._watched, self._owed(self._watched))
        with suppress(RuntimeError):
            if store is not None:
                store.set(f"awaiting/{rank}", json.dumps(awaited))
            if self._over.wait(_GRACE_SECONDS):
                return
            awaited = self._root(store, awaited) if store is not None else awaited
        self.fail(*awaited, f"nothing came of it within {self._timeout:g} s")

    def _root(self, store: Store, awaited: Awaited) -> Awaited:
        """Whom all wait for: the awaited rank, or whoever that one says it waits for, and so on."""
        seen = {self._group.rank}
        while awaited[0] not in seen and store.check([f"awaiting/{awaited[0]}"]):
            seen.add(awaited[0])
            rank, chunk = json.loads(store.get(f"awaiting/{awaited[0]}"))
            awaited = (rank, chunk)
        return awaited


def open_group(
    store: Store,
    rank: int,
    size: int,
    *,
    backend: Backend = "gloo",
    device: str | None = None,
    timeout: float = 30.0,
    address: str | None = None,
) -> GatherGroup:
    """Connect `size` ranks, each of which calls this. Raises `CollectiveError` unless all come in `timeout` seconds.

    `store` is where ranks find each other and report failures: a `TCPStore` in the process that started the ranks and
    outlives them, or on one machine a `FileStore`. `nccl` carries chunks between GPUs, this rank's being `device`
    ("cuda:0"). gloo carries them in host memory, and watches for failures with either; it uses `address`, or
    `GLOO_SOCKET_IFNAME` where none is given.
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
            control, carrier = _connect(part, rank, size, backend, device, timeout, address)
    except RuntimeError as error:
        raise CollectiveError(
            f"rank {rank}: the {size} ranks did not all connect within {timeout:g} s ({first_line(error)})",
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
        self.control = control
        self.carrier = carrier
        """What carries chunks; None for a rank alone."""
        self.patience = timedelta(minutes=5)
        """How long a single wait may last, whatever happens."""

    @property
    def closed(self) -> bool:
        """Whether the group was closed, by its owner or by a failure."""
        return self._store is None

    def say_done(self, peer: int) -> Any:
        """Begin to tell a peer that this rank has all it demands. Returns a handle, or None if the connection broke."""
        import torch

        with suppress(RuntimeError):
            return self.control.send([torch.empty(0, dtype=torch.uint8)], peer, _DONE)
        return None

    def hear_done(self, peer: int) -> Any:
        """Begin to wait until a peer has all it demands. Returns a handle, or None if the connection broke."""
        import torch

        with suppress(RuntimeError):
            return self.control.recv([torch.empty(0, dtype=torch.uint8)], peer, _DONE)
        return None

    def wait_for_word(self, handles: list[Any]) -> bool:
        """Wait for the first handle from `say_done` or `hear_done`, and remove it; False if the connection broke."""
        handle = handles.pop(0)
        with suppress(RuntimeError):
            return handle is not None and bool(handle.wait(self.patience))
        return False

    def next_gather(self, timeout: float) -> Store:
        """Prepare for a gather that gives up after `timeout` seconds, and return its part of the store."""
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
        """Break all connections, here and at the peers, so that nobody waits any longer. Safe from any thread."""
        import torch

        control = self.control
        if control is None:
            return
        # gloo has no abort that wakes those who wait, but an operation out of time closes every connection
        empty = torch.empty(1, dtype=torch.uint8)
        for peer in range(self.size):
            if peer != self.rank:
                with suppress(RuntimeError):
                    control.recv([empty], peer, _NOBODY).wait(timedelta(milliseconds=1))
        if self.carrier is not None:
            self.carrier.abort()

    def close(self) -> None:
        """Drop the connections and their threads. Safe to call twice."""
        if self.carrier is not None:
            self.carrier.close()
        self.control = self.carrier = None
        self._store = None  # type: ignore[assignment]

    def __enter__(self) -> GatherGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(
    store: Store, rank: int, size: int, backend: Backend, device: str | None, timeout: float, address: str | None
) -> tuple[Any, Carrier]:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    control = _gloo(PrefixStore("gloo", store), rank, size, timeout, address)
    carrier: Carrier
    if backend == "gloo":
        carrier = GlooCarrier(control)
    else:
        carrier = NcclCarrier(_nccl(PrefixStore("nccl", store), rank, size, device, timeout))
    # a rank that closes its group while others still connect would break their connecting
    store.set(f"connected/{rank}", "")
    store.wait([f"connected/{peer}" for peer in range(size)], timedelta(seconds=timeout))
    return control, carrier


def _gloo(store: Store, rank: int, size: int, timeout: float, address: str | None) -> Any:
    from torch.distributed import ProcessGroupGloo

    if address is None:
        return ProcessGroupGloo(store, rank, size, timedelta(seconds=timeout))
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = timedelta(seconds=timeout)
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    return ProcessGroupGloo(store, rank, size, options)


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
