"""What a gather is predicted to take: its largest chunk, then whatever is busiest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from symmoe.errors import CollectiveError


@dataclass(frozen=True, slots=True)
class Topology:
    """What carries the chunks, in bytes per second; None is no limit, except for `peer`: None is no way at all.

    `device[r]` carries chunks from host memory to rank r. `links` are sets of ranks behind one such link (a PCIe
    switch, a NUMA node's root), which carries `link` in all. `storage` is shared by all ranks, `storage_per_rank` is
    each one's own limit; where the page cache or a host tier holds the chunks, leave both out.
    `peer` is what a rank can send and, at the same time, receive; `peer_over_host_link` says that peers have no link of
    their own, so that what is received takes the place of what is copied from the host.
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
        """Each rank's share of all that is read: its own bandwidth, or its part of the link that it shares."""
        limits = [min(own, self.storage_per_rank or own) for own in self.device]
        for ranks in self.links:
            for rank in ranks:
                limits[rank] = min(limits[rank], (self.link or limits[rank] * len(ranks)) / len(ranks))
        return tuple(limits)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The bytes that each rank reads, sends and receives, and the largest chunk's."""

    read: tuple[int, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]
    chunk: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds predicted, and what they are mostly spent on."""

    seconds: float
    limit: str


def predict(traffic: Traffic, topology: Topology) -> Cost | None:
    """`chunk / P + max(read / P, moved / V, Σ read / DRAM, Σ read / S)`; None if bytes must move and no link does it.

    P and V are the bandwidths of `device` and `peer`, S that of `storage`. The busiest rank counts, and where ranks
    share a link, that link.
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
    together = sum(read) / topology.storage if topology.storage else 0.0
    alone = max(read, default=0) / topology.storage_per_rank if topology.storage_per_rank else 0.0
    return max(together, alone)
