"""Carrying out a plan: read a share, pass it on, receive the rest, check every chunk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.alarm import Alarm, Awaited
from symmoe.loading.collectives.checks import Checks
from symmoe.loading.collectives.group import GatherGroup
from symmoe.loading.collectives.landing import Landing, as_bytes
from symmoe.loading.collectives.plan import GatherPlan, Transfer
from symmoe.loading.collectives.readahead import AHEAD, ReadAhead
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
    plan from `source`, at most `depth` chunks (and two that wait) ahead of what has arrived here, and twice that of
    what has arrived elsewhere. With `checksum` every chunk is held against the sha256 of the manifest where it is read,
    and against that and the reader's XXH3 where it is received; on a GPU that copies it back to the host. `timeout`
    seconds are given to all ranks to come, and as many again to the chunks.

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
    """One round at this rank: what was begun and is waited for, and the tensors, which must live as long.

    What arrives comes first among the handles, then what is sent; or there is one handle for all.
    """

    arriving: list[Transfer]
    awaited: list[Awaited] = field(default_factory=list)
    works: list[Any] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    landed: Any = None
    apart: bool = True


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
        self._landed: deque[_Flight] = deque()
        self._checks = Checks(source, group.rank, self._alarm.fail)
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
            self._checks.stop()
            self._alarm.stop()
            for flight in (*self._flights, *self._landed):
                flight.works.clear()  # a traceback may keep the flight, and handles keep connections open

    def _go_through(self) -> None:
        landing = Landing(self._places(), self._group.device, self._plan.sizes, self._depth + AHEAD)
        own = [transfer.chunk for transfer in self._plan.transfers if transfer.owner == self._rank]
        with landing.stream(), ReadAhead(own, self._source, landing).running() as reading:
            self._carry_out(landing, reading)
        said = self._checks.said()
        self._alarm.check()
        if self._together and self._checksum:
            self._checks.compare(self._alarm.exchange("said", said))

    def _carry_out(self, landing: Landing, reading: ReadAhead) -> None:
        for number, transfers in enumerate(self._plan.rounds):
            self._round = number
            own = next((transfer for transfer in transfers if transfer.owner == self._rank), None)
            arriving = [transfer for transfer in transfers if self._rank in transfer.receivers]
            if own is None and not arriving:
                continue
            while len(self._flights) >= self._depth:
                self._land(landing)
            # a peer answers when it lands the round itself, which must not hold up the reading here
            while len(self._landed) > self._depth:
                self._wait_for(self._landed.popleft(), 0)
            self._flights.append(self._begin(own, arriving, landing, reading))
            self._alarm.check()
        while self._flights:
            self._land(landing)
        while self._landed:
            self._wait_for(self._landed.popleft(), 0)

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

    def _begin(self, own: Transfer | None, arriving: list[Transfer], landing: Landing, reading: ReadAhead) -> _Flight:
        flight = _Flight(arriving)
        sizes = self._plan.sizes
        receives = [(each.owner, each.chunk, landing.places[each.chunk]) for each in arriving if sizes[each.chunk]]
        sends = []
        if own is not None:
            tensor, flight.landed = self._read(own.chunk, landing, reading)
            flight.tensors.append(tensor)
            sends = [(peer, own.chunk, tensor) for peer in own.receivers if sizes[own.chunk]]
        flight.awaited = [(peer, chunk) for peer, chunk, _ in (*receives, *sends)]
        carrier = self._group.carrier
        lost = carrier.exchange(sends, receives, flight.works) if carrier is not None else None
        if lost is not None:
            raise self._cut_off(flight, lost)
        flight.apart = len(flight.works) == len(flight.awaited)
        return flight

    def _read(self, chunk: int, landing: Landing, reading: ReadAhead) -> tuple[torch.Tensor, Any]:
        self._alarm.awaiting = (self._rank, chunk)
        try:
            host = reading.take()
        except Exception as error:
            raise self._alarm.fail(self._rank, chunk, f"could not be read: {error!r}") from error
        if self._checksum:
            landing.in_use(chunk, self._checks.read(chunk, host))
        return landing.put(chunk, host)

    def _land(self, landing: Landing) -> None:
        """Wait for what the oldest round brings, and have it checked."""
        flight = self._flights.popleft()
        self._landed.append(flight)
        arriving = sum(self._plan.sizes[each.chunk] > 0 for each in flight.arriving)
        self._wait_for(flight, max(0, len(flight.works) - arriving))
        landing.settle(flight.landed)
        if self._checksum:
            for transfer in flight.arriving:
                self._checks.arrived(transfer.owner, transfer.chunk, landing.places[transfer.chunk])
        self._alarm.check()

    def _wait_for(self, flight: _Flight, left: int) -> None:
        """Wait until no more than so many handles of a round are left."""
        carrier = self._group.carrier
        while carrier is not None and len(flight.works) > left:
            self._alarm.awaiting = flight.awaited[-len(flight.works)] if flight.apart else flight.awaited[0]
            if not carrier.wait(flight.works, self._alarm.stopped):
                raise self._cut_off(flight, self._alarm.awaiting)

    def _cut_off(self, flight: _Flight, awaited: Awaited) -> CollectiveError:
        error = self._alarm.lost(awaited)
        flight.works.clear()
        return error

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
