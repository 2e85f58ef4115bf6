"""One rank of the gather benchmark, a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.cost import Topology
from symmoe.loading.collectives.gather import sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup, open_group
from symmoe.loading.collectives.plan import Mode, plan_gather
from symmoe.loading.collectives.source import ChunkSource, PackedSource, SharedRate, ThrottledSource

if TYPE_CHECKING:
    import torch

FILE = "checkpoint"
WAYS: tuple[Mode, ...] = ("independent", "grouped")
_POISON = 0xA5
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """What the ranks are to do: both ways, `repeats` times; or one gather in which the last rank is killed.

    `throttle` is in bytes per second for all together, 0 for none; `digests` are of the chunks, in hex.
    """

    ranks: int
    chunk: int
    digests: tuple[str, ...]
    repeats: int
    throttle: float = 0.0
    checksum: bool = True
    killed_after: int | None = None


def run_rank(folder: str, port: int, rank: int, job: Job) -> None:
    """Gather the file in `folder` into memory as the job says, and write what was measured to `rank-N.json` there."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port)
    source = PackedSource(Path(folder) / FILE, job.chunk, [bytes.fromhex(digest) for digest in job.digests])
    rate = SharedRate(Path(folder) / "rate", job.throttle or float("inf"))
    read_from: ChunkSource = ThrottledSource(source, rate) if job.throttle else source
    arena = torch.empty(sum(source.sizes), dtype=torch.uint8)
    row: dict[str, Any] = {way: [] for way in WAYS}
    with open_group(store, rank, job.ranks) as group:
        member = _Member(store, group, arena, source.sizes, job)
        if job.killed_after is None:
            for way in WAYS * job.repeats:
                row[way].append(member.gather(way, read_from))
        else:
            fatal = _Fatal(read_from, Path(folder) / "killed", job.killed_after)
            row = _until_an_error(member, fatal if rank == job.ranks - 1 else read_from)
    rate.close()
    source.close()
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(row), encoding="utf-8")


class _Member:
    def __init__(self, store: Any, group: GatherGroup, arena: torch.Tensor, sizes: tuple[int, ...], job: Job) -> None:
        self._store, self._group, self._arena, self._sizes, self._job = store, group, arena, sizes, job
        self._met = 0

    def gather(self, mode: Mode, source: ChunkSource) -> dict[str, Any]:
        """One run, timed on the clock that all processes share, and the sha256 of what arrived."""
        demand = [range(len(self._sizes))] * self._job.ranks
        plan = plan_gather(demand, self._sizes, Topology((1.0,) * self._job.ranks, 1.0), mode)
        out = {number: self._arena[number * self._job.chunk :][:size] for number, size in enumerate(self._sizes)}
        self._arena.fill_(_POISON)
        self._meet()
        busy, own = _busy_seconds(), time.process_time()
        began = time.monotonic()
        stats = sparse_all_gather(out, plan, source, self._group, timeout=_TIMEOUT_SECONDS, checksum=self._job.checksum)
        ended = time.monotonic()
        spent = {"machine_busy": _busy_seconds() - busy, "own_busy": time.process_time() - own}
        digest = hashlib.sha256(self._arena.numpy().data).hexdigest()
        return {"began": began, "ended": ended, "sha256": digest, **spent, **asdict(stats)}

    def _meet(self) -> None:
        self._met += 1
        if self._store.add(f"met/{self._met}", 1) == self._job.ranks:
            self._store.set(f"go/{self._met}", "")
        self._store.wait([f"go/{self._met}"])


def _busy_seconds() -> float:
    """How long the cores of this machine have been busy since it started, for whomever, in seconds of one core."""
    user, nice, system = map(int, Path("/proc/stat").read_text(encoding="utf-8").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _until_an_error(member: _Member, source: ChunkSource) -> dict[str, Any]:
    try:
        member.gather("grouped", source)
    except CollectiveError as error:
        return {"error": str(error), "ended": time.monotonic()}
    return {"error": "", "ended": time.monotonic()}


class _Fatal:
    """Another source, whose reader is killed instead of reading once more."""

    def __init__(self, source: ChunkSource, note: Path, reads: int) -> None:
        self._source, self._note, self._left = source, note, reads

    def read(self, chunk: int, buffer: memoryview) -> None:
        if self._left == 0:
            self._note.write_text(str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        self._source.read(chunk, buffer)

    def digest(self, chunk: int) -> bytes | None:
        return self._source.digest(chunk)
