"""Plans who reads each chunk and who passes it to whom, and predicts how long that takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Literal

from symmoe.errors import CollectiveError

Mode = Literal["grouped", "independent"]
LEAST_GAIN = 1.1
"""A group must be predicted this many times as fast as independent copies: it ties ranks to each other's failures."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Bandwidths in bytes per second. None means no limit, except for `peer`, where None means no connection.

    `device[r]` is from host memory to rank r. `links` are sets of ranks behind one shared link (a PCIe switch, a NUMA
    node's root) of bandwidth `link`. `storage` is shared by all ranks, and `storage_per_rank` limits each one; where
    the page cache or a host tier holds the chunks, leave both out. `peer` is what a rank can send and, at the same
    time, receive; `peer_over_host_link` says that peers have no link of their own, so that receiving competes with
    copies from the host.
    """

    device: tuple[float, ...]
    peer: float | None = None
    storage: float | None = None
    storage_per_rank: float | None = None
    host: float | None = None
    links: tuple[tuple[int, ...], ...] = ()
    link: float | None = None
    peer_over_host_link: bool = False

    def __post_init__(self) -> None:
        speeds = (*self.device, self.peer, self.storage, self.storage_per_rank, self.host, self.link)
        if any(speed is not None and not speed > 0 for speed in speeds):
            raise CollectiveError(f"bandwidths must be above 0: {self}", hint="leave out what is no limit")
        linked = [rank for ranks in self.links for rank in ranks]
        if len(set(linked)) < len(linked) or not set(linked) <= set(range(len(self.device))):
            raise CollectiveError(f"links {self.links} name a rank twice, or one that does not exist")

    def shares(self) -> tuple[float, ...]:
        """Each rank's reading bandwidth, which sets its share of the reading: its own, or its part of a shared link."""
        limits = [min(own, self.storage_per_rank or own) for own in self.device]
        for ranks in self.links:
            for rank in ranks:
                limits[rank] = min(limits[rank], (self.link or limits[rank] * len(ranks)) / len(ranks))
        return tuple(limits)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The bytes that each rank reads, sends and receives, and the size of the largest chunk."""

    read: tuple[int, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]
    chunk: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Predicted seconds, and the resource that limits them."""

    seconds: float
    limit: str


def predict(traffic: Traffic, topology: Topology) -> Cost | None:
    """`chunk / P + max(read / P, moved / V, Σ read / DRAM, Σ read / S)`; None if bytes must move and peers have no
    link.

    P, V and S are the bandwidths of `device`, `peer` and `storage`. The busiest rank or shared link counts.
    """
    moved = max(map(max, zip(traffic.sent, traffic.received, strict=True)), default=0)
    if moved and topology.peer is None:
        return None
    parts = {
        "host-to-device copies": _host_links(traffic, topology),
        "peer links": moved / topology.peer if topology.peer else 0.0,
        "host memory": sum(traffic.read) / topology.host if topology.host else 0.0,
        "storage": _storage(traffic.read, topology),
    }
    limit = max(parts, key=lambda part: parts[part])
    first = traffic.chunk / min(topology.device) if topology.device else 0.0
    return Cost(first + parts[limit], limit)


def _host_links(traffic: Traffic, topology: Topology) -> float:
    carried = traffic.read
    if topology.peer_over_host_link:
        inward = map(sum, zip(traffic.read, traffic.received, strict=True))
        carried = tuple(map(max, zip(inward, traffic.sent, strict=True)))
    ranks = [bytes_ / speed for bytes_, speed in zip(carried, topology.device, strict=True)]
    shared = [sum(carried[rank] for rank in ranks) / topology.link for ranks in topology.links if topology.link]
    return max([*ranks, *shared], default=0.0)


def _storage(read: Sequence[int], topology: Topology) -> float:
    shared_seconds = sum(read) / topology.storage if topology.storage else 0.0
    single_seconds = max(read, default=0) / topology.storage_per_rank if topology.storage_per_rank else 0.0
    return max(shared_seconds, single_seconds)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One chunk read by `owner`, which sends it to `receivers`. The owner need not demand the chunk itself."""

    chunk: int
    owner: int
    receivers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GatherPlan:
    """What every rank reads, sends and receives. In a round each rank reads at most one chunk.

    Grouped: each demanded chunk is read once. Independent: each rank reads all that it demands, and sends nothing. The
    seconds are predictions; `grouped_seconds` is None where ranks cannot pass chunks on.
    """

    mode: Mode
    reason: str
    grouped_seconds: float | None
    independent_seconds: float
    demand: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    rounds: tuple[tuple[Transfer, ...], ...]

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """All transfers, round by round."""
        return tuple(transfer for transfers in self.rounds for transfer in transfers)

    def traffic(self) -> Traffic:
        """The bytes that each rank reads, sends and receives."""
        return _traffic(self.transfers, self.sizes, len(self.demand))

    def digest(self) -> str:
        """A digest by which ranks check, before they start, that their plans are equal."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def plan_gather(
    demand: Sequence[Collection[int]], sizes: Sequence[int], topology: Topology, mode: Mode | None = None
) -> GatherPlan:
    """Plan how ranks get their chunks: `demand[r]` are the ids that rank r needs, `sizes[c]` the bytes of chunk c.

    The reading is shared evenly either over all ranks or among those that demand a chunk, whichever is predicted to be
    faster; at equal times, whichever moves fewer bytes. If neither is clearly faster than independent copies, the plan
    is independent. `mode` overrides that choice, for measurements. Raises `CollectiveError` for chunks that do not
    exist, a topology with a different number of ranks, or a grouped plan without peer links.
    """
    wanted = _checked(demand, sizes, topology)
    evenly, nearby = (_shared(wanted, sizes, owners) for owners in _owners(wanted, sizes, topology.shares()))
    apart = [Transfer(chunk, rank) for rank, chunks in enumerate(wanted) for chunk in chunks]
    costs = {
        name: predict(_traffic(way, sizes, len(wanted)), topology)
        for name, way in (("evenly", evenly), ("nearby", nearby), ("apart", apart))
    }
    independent = costs["apart"] or Cost(0.0, "nothing")
    group, grouped = _better(costs["evenly"], evenly, costs["nearby"], nearby)
    chosen, reason = _choose(group, independent, grouped, apart)
    if mode is not None and mode != chosen:
        chosen, reason = mode, f"asked for, though otherwise {chosen}: {reason}"
    if chosen == "grouped" and group is None:
        raise CollectiveError("a grouped plan was asked for, but peers have no link", hint="give the topology a `peer`")
    return GatherPlan(
        chosen,
        reason,
        group.seconds if group else None,
        independent.seconds,
        wanted,
        tuple(sizes),
        _rounds(grouped if chosen == "grouped" else apart, len(wanted)),
    )


def _checked(
    demand: Sequence[Collection[int]], sizes: Sequence[int], topology: Topology
) -> tuple[tuple[int, ...], ...]:
    if len(topology.device) != len(demand):
        raise CollectiveError(f"the topology is of {len(topology.device)} ranks, the demand of {len(demand)}")
    wanted = tuple(tuple(sorted(set(chunks))) for chunks in demand)
    for rank, chunks in enumerate(wanted):
        missing = next((chunk for chunk in chunks if not 0 <= chunk < len(sizes)), None)
        if missing is not None:
            raise CollectiveError(
                f"rank {rank} demands chunk {missing}, but there are {len(sizes)}", rank=rank, chunk=missing
            )
    return wanted


def _owners(
    wanted: Sequence[Sequence[int]], sizes: Sequence[int], shares: Sequence[float]
) -> tuple[dict[int, int], dict[int, int]]:
    """Two answers to who reads each chunk: evenly over all ranks, and the demander with the least to read.

    Evenly means that no rank ends more than one chunk above its share: a demander is taken while it is below its share,
    then whoever would be done first.
    """
    demanders: dict[int, list[int]] = {}
    for rank, chunks in enumerate(wanted):
        for chunk in chunks:
            demanders.setdefault(chunk, []).append(rank)
    # chunks that few demand come first: the others can still go anywhere
    order = sorted(demanders, key=lambda chunk: (len(demanders[chunk]), -sizes[chunk], chunk))
    total, speed = sum(sizes[chunk] for chunk in order), sum(shares)
    targets = [total * share / speed for share in shares]
    loads = {"evenly": [0] * len(wanted), "nearby": [0] * len(wanted)}

    def take(way: str, chunk: int, ranks: Iterable[int]) -> int:
        load = loads[way]
        rank = min(
            ranks,
            key=lambda rank: ((load[rank] + sizes[chunk]) / shares[rank], rank not in demanders[chunk], rank),
        )
        load[rank] += sizes[chunk]
        return rank

    nearby = {chunk: take("nearby", chunk, demanders[chunk]) for chunk in order}
    evenly, left = {}, []
    for chunk in order:
        below = [rank for rank in demanders[chunk] if loads["evenly"][rank] + sizes[chunk] <= targets[rank]]
        if below:
            evenly[chunk] = take("evenly", chunk, below)
        else:
            left.append(chunk)
    for chunk in sorted(left, key=lambda chunk: -sizes[chunk]):
        evenly[chunk] = take("evenly", chunk, range(len(wanted)))
    return evenly, nearby


def _shared(wanted: Sequence[Sequence[int]], sizes: Sequence[int], owners: dict[int, int]) -> list[Transfer]:
    """One transfer for each chunk; an owner's chunks that travel come first, so that reading hides the sending.

    An owner sends to its right-hand neighbour first, so that not all send to one rank at once.
    """
    receivers: dict[int, list[int]] = {chunk: [] for chunk in owners}
    for rank, chunks in enumerate(wanted):
        for chunk in chunks:
            if owners[chunk] != rank:
                receivers[chunk].append(rank)
    ranks = len(wanted)
    transfers = [
        Transfer(chunk, owner, tuple(sorted(receivers[chunk], key=lambda rank: (rank - owner) % ranks)))
        for chunk, owner in owners.items()
    ]
    return sorted(transfers, key=lambda transfer: (-len(transfer.receivers), transfer.chunk))


def _traffic(transfers: Iterable[Transfer], sizes: Sequence[int], ranks: int) -> Traffic:
    read, sent, received = [0] * ranks, [0] * ranks, [0] * ranks
    largest = 0
    for transfer in transfers:
        size = sizes[transfer.chunk]
        largest = max(largest, size)
        read[transfer.owner] += size
        sent[transfer.owner] += size * len(transfer.receivers)
        for rank in transfer.receivers:
            received[rank] += size
    return Traffic(tuple(read), tuple(sent), tuple(received), largest)


def _better(
    even: Cost | None, evenly: list[Transfer], near: Cost | None, nearby: list[Transfer]
) -> tuple[Cost | None, list[Transfer]]:
    if near is None or (even is not None and even.seconds < near.seconds * (1 - 1e-9)):
        return even, evenly
    return near, nearby


def _choose(group: Cost | None, independent: Cost, grouped: list[Transfer], apart: list[Transfer]) -> tuple[Mode, str]:
    copies_note = f"independent copies {independent.seconds:.3g} s, limited by {independent.limit}"
    if group is None:
        return "independent", f"peers have no link; {copies_note}"
    if len(grouped) == len(apart) and not any(transfer.receivers for transfer in grouped):
        return "independent", f"nothing would be shared; {copies_note}"
    words = f"predicted: a group {group.seconds:.3g} s, limited by {group.limit}; {copies_note}"
    if group.seconds * LEAST_GAIN <= independent.seconds:
        return "grouped", words
    return "independent", f"{words}; a group must be {LEAST_GAIN} times as fast"


def _rounds(transfers: Iterable[Transfer], ranks: int) -> tuple[tuple[Transfer, ...], ...]:
    """The n-th chunk that each owner reads makes the n-th round."""
    queues: list[list[Transfer]] = [[] for _ in range(ranks)]
    for transfer in transfers:
        queues[transfer.owner].append(transfer)
    return tuple(tuple(filter(None, transfers)) for transfers in zip_longest(*queues))
