"""`symmoe bench gather`: ranks that each read a part of a file and exchange parts, against each reading all of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from symmoe.bench.machine import busy_seconds
from symmoe.errors import CollectiveError
from symmoe.loading.collectives.gather import sparse_all_gather
from symmoe.loading.collectives.group import GatherGroup, open_group
from symmoe.loading.collectives.plan import GatherPlan, Mode, Topology, plan_gather
from symmoe.loading.collectives.source import ChunkSource, PackedSource, SharedRate, ThrottledSource

if TYPE_CHECKING:
    import torch

FILE = "checkpoint"
WAYS: tuple[Mode, ...] = ("independent", "grouped")
_POISON = 0xA5
_TIMEOUT_SECONDS = 60.0
MIB = 2**20
_LONGEST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Job:
    """The work of the ranks: both ways `repeats` times, or one gather in which the last rank is killed.

    `chunk` is in bytes; `throttle` in bytes per second for all ranks together, 0 for none; `digests` are the sha256 of
    the chunks, in hex; `killed_after` is the number of reads after which the last rank dies.
    """

    ranks: int
    chunk: int
    digests: tuple[str, ...]
    repeats: int
    throttle: float = 0.0
    checksum: bool = True
    killed_after: int | None = None


def run_rank(folder: str, port: int, rank: int, job: Job) -> None:
    """Gather the file in `folder` into memory as the job says, and write the measurements to `rank-N.json` there."""
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
        self._meetings = 0

    def gather(self, mode: Mode, source: ChunkSource) -> dict[str, Any]:
        """One run: times by the clock that all processes share, and the sha256 of the bytes received."""
        demand = [range(len(self._sizes))] * self._job.ranks
        plan = plan_gather(demand, self._sizes, Topology((1.0,) * self._job.ranks, 1.0), mode)
        out = {number: self._arena[number * self._job.chunk :][:size] for number, size in enumerate(self._sizes)}
        self._arena.fill_(_POISON)
        self._meet()
        busy, own = busy_seconds(), time.process_time()
        began = time.monotonic()
        stats = sparse_all_gather(out, plan, source, self._group, timeout=_TIMEOUT_SECONDS, checksum=self._job.checksum)
        ended = time.monotonic()
        spent = {"machine_busy": busy_seconds() - busy, "own_busy": time.process_time() - own}
        digest = hashlib.sha256(self._arena.numpy().data).hexdigest()
        return {"began": began, "ended": ended, "sha256": digest, **spent, **asdict(stats)}

    def _meet(self) -> None:
        self._meetings += 1
        if self._store.add(f"met/{self._meetings}", 1) == self._job.ranks:
            self._store.set(f"go/{self._meetings}", "")
        self._store.wait([f"go/{self._meetings}"])


def _until_an_error(member: _Member, source: ChunkSource) -> dict[str, Any]:
    try:
        member.gather("grouped", source)
    except CollectiveError as error:
        return {"error": str(error), "ended": time.monotonic()}
    return {"error": "", "ended": time.monotonic()}


class _Fatal:
    """A source that kills its process instead of a further read, after `reads` reads."""

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


def measure(
    mib: int = 256,
    ranks: Sequence[int] = (2, 4),
    throttle: float = 400.0,
    repeats: int = 3,
    kill: bool = False,
    chunk_mib: float = 4.0,
) -> dict[str, Any]:
    """The report of `symmoe bench gather` in MiB, MiB/s and seconds, medians over `repeats`.

    For each number of `ranks` (processes), all of which need the whole file: from storage limited to `throttle` MiB/s
    for all together, and from the page cache without a limit. With `kill`, the last rank of the largest group is killed
    half-way, and the errors of the others are reported.
    """
    with tempfile.TemporaryDirectory(prefix="symmoe-gather-") as folder:
        chunk = int(chunk_mib * MIB)
        digests = _write(Path(folder) / FILE, mib * MIB, chunk)
        bench = _Bench(Path(folder), mib * MIB, chunk, digests, throttle * MIB, repeats)
        report: dict[str, Any] = {
            "mib": mib,
            "chunk_mib": chunk_mib,
            "throttle_mib_per_second": throttle,
            "repeats": repeats,
            "backend": "gloo",
            "cores": os.cpu_count(),
            "ranks": {str(count): bench.compare(count) for count in ranks},
        }
        if kill:
            report["kill"] = bench.kill(max(ranks))
        return report


class _Bench:
    def __init__(
        self, folder: Path, size: int, chunk: int, digests: tuple[str, ...], throttle: float, repeats: int
    ) -> None:
        self._folder, self._size, self._chunk, self._digests = folder, size, chunk, digests
        self._throttle, self._repeats = throttle, repeats
        self._sizes = [min(chunk, size - begin) for begin in range(0, size, chunk)]

    def compare(self, ranks: int) -> dict[str, Any]:
        """Both ways, throttled and from the page cache; plans are made from the measurements of the latter."""
        hot = self._run(Job(ranks, self._chunk, self._digests[:-1], self._repeats, checksum=False))
        topology = self._measured(hot, ranks)
        refused = self._plan(ranks, topology)
        shared = Topology(topology.device, topology.peer, storage=self._throttle)
        plan = self._plan(ranks, shared)
        slow = self._run(Job(ranks, self._chunk, self._digests[:-1], self._repeats, throttle=self._throttle))
        read = [row["grouped"][0]["read"] / MIB for row in slow]
        return {
            "throttled": {
                **self._summary(slow),
                "plan": _plan_facts(plan),
                "mib_read_per_rank": read,
                "read_is_a_share": max(read) - self._size / MIB / ranks <= self._chunk / MIB,
            },
            "page_cache": {**self._summary(hot), "plan": _plan_facts(refused)},
            "measured_mib_per_second": {
                "read_per_rank": round(topology.device[0] / MIB),
                "received_per_rank": round((topology.peer or 0.0) / MIB),
            },
        }

    def kill(self, ranks: int) -> dict[str, Any]:
        """Kill the last rank half-way through its reading. Returns the error of each other rank, and after how long."""
        reads = len(self._sizes) // ranks // 2
        job = Job(ranks, self._chunk, self._digests[:-1], 1, throttle=self._throttle, killed_after=reads)
        rows = self._run(job, killed=ranks - 1)
        killed_at = float((self._folder / "killed").read_text())
        return {
            "ranks": ranks,
            "killed": ranks - 1,
            "after_reads": reads,
            "others": [{"error": row["error"], "seconds": round(row["ended"] - killed_at, 3)} for row in rows],
        }

    def _plan(self, ranks: int, topology: Topology) -> GatherPlan:
        return plan_gather([range(len(self._sizes))] * ranks, self._sizes, topology)

    def _measured(self, hot: list[dict[str, Any]], ranks: int) -> Topology:
        independent = _seconds(hot, "independent")
        grouped = _seconds(hot, "grouped")
        received = max(row["grouped"][0]["received"] for row in hot)
        return Topology((self._size / median(independent),) * ranks, received / median(grouped))

    def _summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        independent, grouped = _seconds(rows, "independent"), _seconds(rows, "grouped")
        exact = all(run["sha256"] == self._digests[-1] for row in rows for way in WAYS for run in row[way])
        return {
            "independent_seconds": round(median(independent), 3),
            "grouped_seconds": round(median(grouped), 3),
            "times": round(median(a / b for a, b in zip(independent, grouped, strict=True)), 2),
            "cores_taken_by_others": round(median(_taken_by_others(rows, way) for way in WAYS), 2),
            "runs": [[round(a, 3), round(b, 3)] for a, b in zip(independent, grouped, strict=True)],
            "bit_exact": exact,
        }

    def _run(self, job: Job, killed: int | None = None) -> list[dict[str, Any]]:
        """Run the ranks to their end. Returns what each wrote, without the one that is `killed`."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        for path in self._folder.glob("rank-*.json"):
            path.unlink()
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = get_context("forkserver")
        context.set_forkserver_preload(["torch", run_rank.__module__])
        processes: list[BaseProcess] = [
            context.Process(target=run_rank, args=(str(self._folder), store.port, rank, job), daemon=True)
            for rank in range(job.ranks)
        ]
        for process in processes:
            process.start()
        rows = []
        for rank, process in enumerate(processes):
            process.join(_LONGEST_SECONDS)
            if process.is_alive():
                self._end(processes)
                raise CollectiveError(f"rank {rank} of the benchmark did not end in {_LONGEST_SECONDS:g} s", rank=rank)
            if rank != killed:
                rows.append(self._row(rank, process.exitcode))
        return rows

    def _end(self, processes: list[BaseProcess]) -> None:
        for process in processes:
            process.kill()
            process.join()

    def _row(self, rank: int, code: int | None) -> dict[str, Any]:
        path = self._folder / f"rank-{rank}.json"
        if code != 0 or not path.is_file():
            raise CollectiveError(f"rank {rank} of the benchmark ended with code {code}", rank=rank)
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return row


def _seconds(rows: list[dict[str, Any]], way: str) -> list[float]:
    """The wall time of each repeat, from the start of the first rank to the end of the last."""
    runs = zip(*(row[way] for row in rows), strict=True)
    return [max(each["ended"] for each in run) - min(each["began"] for each in run) for run in runs]


def _taken_by_others(rows: list[dict[str, Any]], way: str) -> float:
    """How many cores other work kept busy on average; the times are comparable only if this is near 0."""
    busy = sum(run["machine_busy"] for run in rows[0][way])
    ours = sum(run["own_busy"] for row in rows for run in row[way])
    seconds = sum(run["ended"] - run["began"] for run in rows[0][way])
    return float(max(0.0, busy - ours) / seconds)


def _plan_facts(plan: GatherPlan) -> dict[str, Any]:
    return {
        "mode": plan.mode,
        "reason": plan.reason,
        "grouped_seconds": plan.grouped_seconds and round(plan.grouped_seconds, 4),
        "independent_seconds": round(plan.independent_seconds, 4),
    }


def _write(path: Path, size: int, chunk: int) -> tuple[str, ...]:
    """Write a file of random bytes. Returns the sha256 of its chunks, in hex, and of the whole file last."""
    import numpy as np

    rng = np.random.default_rng(0)
    whole, digests = hashlib.sha256(), []
    with path.open("wb") as file:
        for begin in range(0, size, chunk):
            data = rng.bytes(min(chunk, size - begin))
            file.write(data)
            whole.update(data)
            digests.append(hashlib.sha256(data).hexdigest())
    return (*digests, whole.hexdigest())
