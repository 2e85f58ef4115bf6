"""Ranks for tests: threads of this process, each with connections of its own, or real processes."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.distributed import HashStore

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.gather import GatherStats, sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup, open_group
from symmoe.loading.collectives.plan import GatherPlan, Mode, Topology, plan_gather
from symmoe.loading.collectives.source import ChunkSource

POISON = 0xA5
LINGER_SECONDS = 60


class MemorySource:
    """Chunks in memory; what befalls a chunk when it is read may be given, and so may digests that are not its own."""

    def __init__(
        self,
        chunks: Sequence[bytes],
        befalls: Mapping[int, Callable[[memoryview], None]] | None = None,
        digests: Mapping[int, bytes | None] | None = None,
    ) -> None:
        self.reads: list[int] = []
        self._chunks = chunks
        self._befalls = befalls or {}
        self._digests = digests or {}

    def read(self, chunk: int, buffer: memoryview) -> None:
        self.reads.append(chunk)
        buffer[:] = self._chunks[chunk]
        self._befalls.get(chunk, lambda _: None)(buffer)

    def digest(self, chunk: int) -> bytes | None:
        return self._digests[chunk] if chunk in self._digests else hashlib.sha256(self._chunks[chunk]).digest()


@dataclass
class Ended:
    """How a rank ended: what it gathered, or its error."""

    out: dict[int, torch.Tensor]
    stats: GatherStats | None = None
    error: CollectiveError | None = None
    closed: bool = False


def chunks_of(*sizes: int) -> list[bytes]:
    numbers = torch.Generator().manual_seed(0)
    return [bytes(torch.randint(0, 256, (size,), dtype=torch.uint8, generator=numbers).tolist()) for size in sizes]


def planned(
    demand: Sequence[Sequence[int] | set[int]], chunks: Sequence[bytes], mode: Mode | None = "grouped"
) -> GatherPlan:
    return plan_gather(demand, [len(chunk) for chunk in chunks], Topology((1e9,) * len(demand), 1e9), mode)


def places(plan: GatherPlan, rank: int) -> dict[int, torch.Tensor]:
    """Somewhere for what a rank demands, filled with what is in no chunk."""
    return {chunk: torch.full((plan.sizes[chunk],), POISON, dtype=torch.uint8) for chunk in plan.demand[rank]}


def in_threads(size: int, act: Callable[[int, GatherGroup], Any]) -> list[Any]:
    """Let each rank act in a thread, in a group of its own; what each gave, or the error that it raised."""
    store = HashStore()
    ended: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            with open_group(store, rank, size, timeout=LINGER_SECONDS) as group:
                ended[rank] = act(rank, group)
        except Exception as error:
            ended[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LINGER_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    return ended


def gathered(plans: GatherPlan | Sequence[GatherPlan], sources: Sequence[ChunkSource], **options: Any) -> list[Ended]:
    """Gather in threads; the same options everywhere."""
    each = [plans] * len(sources) if isinstance(plans, GatherPlan) else plans

    def act(rank: int, group: GatherGroup) -> Ended:
        ended = Ended(places(each[rank], rank))
        try:
            ended.stats = sparse_all_gather(ended.out, each[rank], sources[rank], group, **options)
        except CollectiveError as error:
            ended.error = error
        ended.closed = group.closed
        return ended

    return in_threads(len(sources), act)


def in_processes(size: int, act: Callable[..., None], *args: Any) -> list[int | None]:
    """Call `act(rank, *args)` in a process for each rank; their exit codes."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__])
    processes = [context.Process(target=act, args=(rank, *args), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LINGER_SECONDS)
    lingering = [process for process in processes if process.is_alive()]
    for process in lingering:
        process.kill()
        process.join()
    assert not lingering
    return [process.exitcode for process in processes]


def threads_and_files() -> dict[str, int]:
    """How many threads and open files (sockets among them) this process has."""
    return {what: len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd")}


def left_over(before: dict[str, int]) -> dict[str, int]:
    """What there is more of than before; a thread that has ended is counted until the kernel is done with it."""
    until = time.monotonic() + 5
    while True:
        more = {what: count - before[what] for what, count in threads_and_files().items() if count > before[what]}
        if not more or time.monotonic() > until:
            return more
        time.sleep(0.01)


def note(folder: str, rank: int, words: str) -> None:
    (Path(folder) / f"rank-{rank}").write_text(words, encoding="utf-8")
