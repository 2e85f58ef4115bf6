"""Carrying out a plan: read a share, pass it on, receive the rest, check every chunk."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.alarm import Alarm, Awaited
from symmoe.loading.collectives.group import GatherGroup
from symmoe.loading.collectives.landing import Landing, as_bytes
from symmoe.loading.collectives.plan import GatherPlan, Transfer
from symmoe.loading.collectives.source import ChunkSource

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class GatherStats:
    """What a gather moved at this rank, in bytes, and its wall time."""

    read: int
    sent: int
    received: int
    seconds: float


def sparse_all_gather(
    out: Mapping[int, torch.Tensor | memoryview],
    plan: GatherPlan,
    source: ChunkSource,
    group: GatherGroup,
    *,
    timeout: float = 60.0,
    checksum: bool = True,
    depth: int = 3,
) -> GatherStats:
    """Fill `out` with the chunks that this rank demands; every rank of the group calls it with the same plan.

    `out[c]` takes chunk c: a contiguous tensor or a writable memoryview of its size. The rank reads its share of the
    plan from `source`, at most `depth` chunks ahead of what has arrived. With `checksum` every chunk is held against
    the sha256 of the manifest where it is read and again where it is received; on a GPU that copies it back to the
    host. `timeout` seconds are given to all ranks to come, and as many again to the chunks.

    Returns when all ranks have all. If any rank dies, cannot read, reads or receives a corrupt chunk, or gives nothing
    in time, all raise the same `CollectiveError`, which names that rank and the chunk, and their groups are closed. An
    independent plan only reads: ranks do not wait for each other. A read that never returns holds up its own rank.
    """
    if len(plan.demand) != group.size:
        raise CollectiveError(f"the plan is for {len(plan.demand)} ranks, the group of {group.size}")
    began = time.perf_counter()
    gather = _Gather(out, plan, source, group, timeout, checksum, max(1, depth))
    gather.run()
    traffic, rank = plan.traffic(), group.rank
    return GatherStats(traffic.read[rank], traffic.sent[rank], traffic.received[rank], time.perf_counter() - began)


@dataclass(slots=True)
class _Flight:
    """One round at this rank: what was begun and is waited for, and the tensors, which must live as long."""

    arriving: list[Transfer]
    awaited: list[Awaited] = field(default_factory=list)
    works: list[Any] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    landed: Any = None


class _Gather:
    def __init__(
        self,
        out: Mapping[int, torch.Tensor | memoryview],
        plan: GatherPlan,
        source: ChunkSource,
        group: GatherGroup,
        timeout: float,
        checksum: bool,
        depth: int,
    ) -> None:
        self._out, self._plan, self._source, self._group = out, plan, source, group
        self._rank, self._depth, self._checksum = group.rank, depth, checksum
        self._alarm = Alarm(group, timeout, self._owed)
        self._flights: deque[_Flight] = deque()
        self._checks: list[Future[None]] = []
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="gather_check")
        self._round = 0
        self._together = plan.mode == "grouped" and group.size > 1

    def run(self) -> None:
        try:
            if self._together:
                self._alarm.start(self._plan.digest())
            self._go_through()
            if self._together:
                self._alarm.finish()
        except CollectiveError:
            raise
        except BaseException as error:
            self._alarm.fail(self._rank, None, f"ended early: {error!r}")
            raise
        finally:
            self._checker.shutdown(cancel_futures=True)
            self._alarm.stop()
            self._flights.clear()

    def _go_through(self) -> None:
        landing = Landing(self._places(), self._group.device, self._plan.sizes, self._depth)
        with landing.stream():
            self._carry_out(landing)
        for check in self._checks:
            check.result()
        self._alarm.check()

    def _carry_out(self, landing: Landing) -> None:
        for number, transfers in enumerate(self._plan.rounds):
            self._round = number
            own = next((transfer for transfer in transfers if transfer.owner == self._rank), None)
            arriving = [transfer for transfer in transfers if self._rank in transfer.receivers]
            if own is None and not arriving:
                continue
            while len(self._flights) >= self._depth:
                self._land(landing)
            self._flights.append(self._begin(own, arriving, landing))
            self._alarm.check()
        while self._flights:
            self._land(landing)

    def _places(self) -> dict[int, torch.Tensor]:
        """Where each demanded chunk goes, as bytes."""
        places = {}
        for chunk in self._plan.demand[self._rank]:
            size = self._plan.sizes[chunk]
            try:
                places[chunk] = as_bytes(self._out[chunk])
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise self._alarm.fail(self._rank, chunk, f"cannot be filled: {error!r}") from None
            if len(places[chunk]) != size:
                what = f"is of {size} bytes, but {len(places[chunk])} were set aside for it"
                raise self._alarm.fail(self._rank, chunk, what)
        return places

    def _begin(self, own: Transfer | None, arriving: list[Transfer], landing: Landing) -> _Flight:
        flight = _Flight(arriving)
        sizes = self._plan.sizes
        receives = [(each.owner, each.chunk, landing.places[each.chunk]) for each in arriving if sizes[each.chunk]]
        sends = []
        if own is not None:
            tensor, flight.landed = self._read(own.chunk, landing)
            flight.tensors.append(tensor)
            sends = [(peer, own.chunk, tensor) for peer in own.receivers if sizes[own.chunk]]
        flight.awaited = [(peer, chunk) for peer, chunk, _ in (*receives, *sends)]
        carrier = self._group.carrier
        lost = carrier.exchange(sends, receives, flight.works) if carrier is not None else None
        if lost is not None:
            raise self._cut_off(flight, lost)
        return flight

    def _read(self, chunk: int, landing: Landing) -> tuple[torch.Tensor, Any]:
        self._alarm.awaiting = (self._rank, chunk)
        host = landing.buffer(chunk)
        try:
            self._source.read(chunk, host.numpy().data)
        except Exception as error:
            raise self._alarm.fail(self._rank, chunk, f"could not be read: {error!r}") from error
        if self._checksum:
            landing.in_use(self._check(self._rank, chunk, host))
        return landing.put(chunk, host)

    def _land(self, landing: Landing) -> None:
        """Wait for the oldest round, and have what it brought checked."""
        flight = self._flights.popleft()
        carrier = self._group.carrier
        awaited = iter(flight.awaited)
        while carrier is not None and flight.works:
            self._alarm.awaiting = next(awaited)
            if not carrier.wait(flight.works, self._alarm.stopped):
                raise self._cut_off(flight, self._alarm.awaiting)
        landing.settle(flight.landed)
        if self._checksum:
            for transfer in flight.arriving:
                self._check(transfer.owner, transfer.chunk, landing.places[transfer.chunk])
        self._alarm.check()

    def _cut_off(self, flight: _Flight, awaited: Awaited) -> CollectiveError:
        error = self._alarm.lost(awaited)
        flight.works.clear()
        return error

    def _check(self, owner: int, chunk: int, tensor: torch.Tensor) -> Future[None]:
        """Begin to hold a chunk against its manifest, in the one thread that does so."""

        def check() -> None:
            try:
                wanted = self._source.digest(chunk)
            except Exception as error:
                self._alarm.fail(owner, chunk, f"could not be checked: {error!r}")
                return
            if wanted is None:
                self._alarm.fail(owner, chunk, "has no sha256 in its manifest: gather without `checksum`, or add it")
            elif hashlib.sha256(tensor.cpu().numpy().data).digest() != wanted:
                self._alarm.fail(owner, chunk, "is corrupt: its sha256 is not the one of its manifest")

        self._checks.append(self._checker.submit(check))
        return self._checks[-1]

    def _owed(self, peer: int) -> int | None:
        """The first chunk, from the present round on, that a peer was to read, or else to receive."""
        rest = [
            transfer
            for transfers in self._plan.rounds[max(0, self._round - self._depth + 1) :]
            for transfer in transfers
        ]
        to_me = (each.chunk for each in rest if each.owner == peer and self._rank in each.receivers)
        read = (each.chunk for each in rest if each.owner == peer)
        taken = (each.chunk for each in rest if peer in each.receivers)
        return next(to_me, next(read, next(taken, None)))
