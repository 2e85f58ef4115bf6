"""Executes a plan: read a share of the chunks, pass them on, receive the rest, check every chunk.

sha256 takes one core about a second per gigabyte, so only the reader of a chunk computes it. The reader sends the
sha256 that it checked the chunk against and the XXH3 (64 bits, twenty times faster) of the bytes. Receivers compare the
sha256 with their own manifest, and the XXH3 with the bytes that arrived.
"""

from __future__ import annotations

import hashlib
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.group import Alarm, Awaited, GatherGroup
from symmoe.loading.collectives.plan import GatherPlan, Transfer
from symmoe.loading.collectives.source import ChunkSource

if TYPE_CHECKING:
    import torch

Fail = Callable[[int, int | None, str], CollectiveError]
_ROW = struct.Struct("!I32s8s")  # the chunk's number, its sha256, its XXH3
_NO_SHA256 = bytes(32)
_POLL_SECONDS = 0.0002
AHEAD = 2
"""Chunks that are read before they are asked for: while one waits to be passed on, the next is on its way."""


class Checks:
    """Checks the chunks of one gather at one rank, in a thread of its own. `fail` reports what is wrong.

    Without a `manifest`, what arrived is only compared with what was read.
    """

    def __init__(self, source: ChunkSource, rank: int, fail: Fail, manifest: bool = True) -> None:
        self._source, self._rank, self._fail, self._manifest = source, rank, fail, manifest
        self._said: dict[int, bytes] = {}
        self._arrived: dict[int, tuple[int, bytes]] = {}
        self._begun: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gather_check")

    def read(self, chunk: int, tensor: torch.Tensor) -> Future[None]:
        """Begin to check a chunk that was read here against its manifest."""
        return self._begin(self._hold, self._rank, chunk, tensor)

    def arrived(self, owner: int, chunk: int, tensor: torch.Tensor) -> None:
        """Begin to compute the checksum of a chunk that arrived from its reader, `owner`."""
        self._begin(self._take_down, owner, chunk, tensor)

    def checksums(self) -> bytes:
        """Wait for all checks begun, and return the checksums of the chunks read here, for the other ranks."""
        for check in self._begun:
            check.result()
        return b"".join(_ROW.pack(chunk, row[:32], row[32:]) for chunk, row in self._said.items())

    def compare(self, words: list[bytes]) -> None:
        """Compare the chunks that arrived with each rank's `words`, its checksums. Raises `CollectiveError`."""
        expected = {
            (owner, chunk): sha256 + fast
            for owner, word in enumerate(words)
            for chunk, sha256, fast in _ROW.iter_unpack(word)
        }
        for chunk, (owner, row) in self._arrived.items():
            if expected.get((owner, chunk)) != row:
                raise self._fail(owner, chunk, "is corrupt: it arrived otherwise than this rank's manifest has it")

    def stop(self) -> None:
        """Stop the thread; checks that have not begun are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _begin(
        self, check: Callable[[int, int, torch.Tensor, bytes], None], owner: int, chunk: int, tensor: torch.Tensor
    ) -> Future[None]:
        def run() -> None:
            wanted = self._wanted(owner, chunk)
            if wanted is not None:
                check(owner, chunk, tensor, wanted)

        self._begun.append(self._thread.submit(run))
        return self._begun[-1]

    def _hold(self, owner: int, chunk: int, tensor: torch.Tensor, wanted: bytes) -> None:
        data = tensor.cpu().numpy().data
        if self._manifest and hashlib.sha256(data).digest() != wanted:
            self._fail(owner, chunk, "is corrupt: its sha256 is not the one of its manifest")
        self._said[chunk] = wanted + xxhash.xxh3_64_digest(data)

    def _take_down(self, owner: int, chunk: int, tensor: torch.Tensor, wanted: bytes) -> None:
        self._arrived[chunk] = owner, wanted + xxhash.xxh3_64_digest(tensor.cpu().numpy().data)

    def _wanted(self, owner: int, chunk: int) -> bytes | None:
        """The manifest's sha256; reports a failure if there is none. Zeros where no manifest counts."""
        if not self._manifest:
            return _NO_SHA256
        try:
            wanted = self._source.digest(chunk)
        except Exception as error:
            self._fail(owner, chunk, f"could not be checked: {error!r}")
            return None
        if wanted is None:
            self._fail(owner, chunk, "has no sha256 in its manifest: gather without `checksum`, or add it")
        return wanted


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
    """The memory that a rank's chunks go to, and buffers for those that it reads for others or that go on to a GPU.

    On a GPU a fixed number of pinned buffers is reused in turn: one is filled again only after its copy to the GPU is
    done (its round was settled) and its check has finished.
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
        """A context in which GPU work runs on a stream of its own, after all work already queued on the device."""
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
        """Keep a chunk's buffer from being reused until its check is done."""
        if self._pinned:
            self._checks[self._given[chunk]] = check

    def put(self, chunk: int, host: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Copy a chunk from its buffer to its place, if needed. Returns its tensor, and an event for `settle`."""
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


class ReadAhead:
    """Reads a rank's chunks in order, in a thread of its own, at most `AHEAD` chunks before they are taken."""

    def __init__(self, chunks: Sequence[int], source: ChunkSource, landing: Landing) -> None:
        self._chunks, self._source, self._landing = chunks, source, landing
        self._room = threading.Semaphore(AHEAD)
        self._done: queue.SimpleQueue[torch.Tensor | BaseException] = queue.SimpleQueue()
        self._stopped = False

    @contextmanager
    def running(self) -> Iterator[ReadAhead]:
        """Read while the context lasts. Leaving waits for a read under way, which writes into others' memory."""
        thread = threading.Thread(target=self._run, name="gather_read", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped = True
            self._room.release()
            thread.join()

    def take(self) -> torch.Tensor:
        """The next chunk in host memory. Raises what reading it raised."""
        done = self._done.get()
        if isinstance(done, BaseException):
            raise done
        self._room.release()
        return done

    def _run(self) -> None:
        for chunk in self._chunks:
            self._room.acquire()
            if self._stopped:
                return
            try:
                host = self._landing.buffer(chunk)
                self._source.read(chunk, host.numpy().data)
            except BaseException as error:
                self._done.put(error)
                return
            self._done.put(host)


@dataclass(frozen=True, slots=True)
class GatherStats:
    """What a gather moved at this rank, in bytes."""

    read: int
    received: int


def sparse_all_gather(
    out: Mapping[int, torch.Tensor | memoryview],
    plan: GatherPlan,
    source: ChunkSource,
    group: GatherGroup,
    *,
    timeout: float = 60.0,
    checksum: bool | Literal["arrival"] = True,
    depth: int = 3,
) -> GatherStats:
    """Fill `out` with the chunks that this rank demands; every rank of the group calls it with the same plan.

    `out[c]` takes chunk c: a contiguous tensor or a writable memoryview of its size. The rank reads its share of the
    plan from `source`, at most `depth` chunks (and two that wait) ahead of what has arrived here, and twice that of
    what has arrived elsewhere. With `checksum` every chunk is checked against the manifest's sha256 where it is read,
    and against that and the reader's XXH3 where it is received; on a GPU that copies it back to the host. `"arrival"`
    is for chunks without a manifest, and checks the XXH3 alone. All ranks have `timeout` seconds to arrive, and as many
    again for the chunks.

    Returns when every rank has its chunks. If a rank dies, cannot read, reads or receives a corrupt chunk, or delivers
    nothing in time, all ranks raise the same `CollectiveError`, which names that rank and the chunk, and their groups
    are closed. An independent plan only reads: ranks do not wait for each other. A read that never returns blocks its
    own rank.
    """
    if len(plan.demand) != group.size:
        raise CollectiveError(f"the plan is for {len(plan.demand)} ranks, the group of {group.size}")
    gather = _Gather(out, plan, source, group, timeout, checksum, max(1, depth))
    gather.run()
    traffic, rank = plan.traffic(), group.rank
    return GatherStats(traffic.read[rank], traffic.received[rank])


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
        checksum: bool | Literal["arrival"],
        depth: int,
    ) -> None:
        self._out, self._plan, self._source, self._group = out, plan, source, group
        self._rank, self._depth, self._checksum = group.rank, depth, checksum
        self._alarm = Alarm(group, timeout, self._owed)
        self._flights: deque[_Flight] = deque()
        self._landed: deque[_Flight] = deque()
        self._checks = Checks(source, group.rank, self._alarm.fail, manifest=checksum != "arrival")
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
        chunks = [transfer.chunk for transfer in self._plan.transfers if transfer.owner == self._rank]
        with landing.stream(), ReadAhead(chunks, self._source, landing).running() as reading:
            self._carry_out(landing, reading)
        checksums = self._checks.checksums()
        self._alarm.check()
        if self._together and self._checksum:
            self._checks.compare(self._alarm.exchange("said", checksums))

    def _carry_out(self, landing: Landing, reading: ReadAhead) -> None:
        for number, transfers in enumerate(self._plan.rounds):
            self._round = number
            own_transfer = next((transfer for transfer in transfers if transfer.owner == self._rank), None)
            arriving = [transfer for transfer in transfers if self._rank in transfer.receivers]
            if own_transfer is None and not arriving:
                continue
            while len(self._flights) >= self._depth:
                self._land(landing)
            # a peer answers when it lands the round itself, which must not hold up the reading here
            while len(self._landed) > self._depth:
                self._wait_for(self._landed.popleft(), 0)
            self._flights.append(self._begin(own_transfer, arriving, landing, reading))
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

    def _begin(
        self, own_transfer: Transfer | None, arriving: list[Transfer], landing: Landing, reading: ReadAhead
    ) -> _Flight:
        flight = _Flight(arriving)
        sizes = self._plan.sizes
        receives = [(each.owner, each.chunk, landing.places[each.chunk]) for each in arriving if sizes[each.chunk]]
        sends = []
        if own_transfer is not None:
            tensor, flight.landed = self._read(own_transfer.chunk, landing, reading)
            flight.tensors.append(tensor)
            sends = [(peer, own_transfer.chunk, tensor) for peer in own_transfer.receivers if sizes[own_transfer.chunk]]
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
