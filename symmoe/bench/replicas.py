"""`symmoe bench replicas`: replicas that start at once on several machines, reading together against each alone.

Machines are folders of one machine here, and storage is slowed in software to a rate for all readers together. The
start of engines, once weights are in memory, is not measured.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import xxhash

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.source import SharedRate
from symmoe.loading.staging import HOT, FilesSource, Place, Seat, Staged, Staging
from symmoe.types import Joint

HOST = "127.0.0.1"
MIB = 1 << 20
_BARS = {"times": 2.5, "killed_more_seconds": 10.0, "hot_to_plain": 1.03}
_HOT_ROUNDS = 15
_LONGEST_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Job:
    """The work of each replica. `throttle` is in bytes per second; `fatal` is the machine that dies half-way, if any.

    With `late`, the replica starts after the others have met.
    """

    directory: str
    machines: int
    throttle: float
    together: bool
    fatal: int | None = None
    late: bool = False


class _Throttled(FilesSource):
    """Weight files with a rate that all processes share; kills its process after `dies_after` reads, if given."""

    def __init__(self, files: Sequence[Path], rate: SharedRate, dies_after: int | None = None) -> None:
        super().__init__(files)
        self._rate, self._left = rate, dies_after

    def read(self, chunk: int, buffer: memoryview) -> None:
        """Read a chunk, no sooner than the rate allows."""
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left = None if self._left is None else self._left - 1
        ready = self._rate.take(len(buffer))
        super().read(chunk, buffer)
        time.sleep(max(0.0, ready - time.monotonic()))


class _Table:
    """A meeting of `machines` machines over the store of the process that started them; later ones are alone."""

    def __init__(self, store: Any, machines: int, late: bool) -> None:
        self._store, self._machines, self._late = store, machines, late

    def come(self, key: str, joint: Joint) -> None:
        """Do nothing: nobody waits for machines that do not meet."""

    def meet(self, key: str, machine: str, joint: Joint | None) -> Seat:
        """Wait for all machines; the rank of this one."""
        if self._late:
            return Seat(0, 1, 2)
        rank = self._store.add(f"{key}/came", 1) - 1
        if rank >= self._machines:
            return Seat(0, 1, 2)
        self._store.set(f"{key}/{rank}", "")
        self._store.wait([f"{key}/{each}" for each in range(self._machines)])
        return Seat(rank, self._machines, 1)

    def open(self, number: int, address: str) -> None:
        """Publish the address of the first rank."""
        self._store.set("address", address)

    def address(self, number: int) -> str:
        """Wait for the address of the first rank."""
        return str(self._store.get("address").decode())


def run_replica(folder: str, port: int, number: int, machine: int, job: Job) -> None:
    """Load the weights as the job says, and write times and digests to `replica-N.json`."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    torch.set_num_threads(1)
    store = TCPStore(HOST, port)
    directory = Path(job.directory)
    files = sorted(directory.glob("*.safetensors"))
    rate = SharedRate(Path(folder) / "rate", job.throttle)
    dies_after = _chunks(files) // job.machines // 2 if job.fatal == machine else None
    began = time.monotonic()
    if job.together:
        place = Place(str(machine), HOST, Path(folder) / f"machine-{machine}")
        meeting = _Table(store, job.machines, job.late)
        staging = Staging(
            place, meeting, lambda: 1 << 40, lambda opened: _Throttled(opened, rate, dies_after), lambda opened: 0.0
        )
        staged = staging.stage(directory)
    else:
        staging, staged = None, Staged(directory, "plain", "asked for")
    if staged.way == "plain":
        _read_all(_Throttled(files, rate))
    ended = time.monotonic()
    digests = {file.name: _digest(staged.directory / file.name) for file in files}
    report = {"began": began, "ended": ended, "way": staged.way, "reason": staged.reason, "digests": digests}
    report |= {"read": staged.read, "received": staged.received}
    store.set(f"done/{number}", "")
    if not job.late and job.fatal is None:
        store.wait(["over"])  # a copy is removed with its last user
    if staging is not None:
        staging.close()
    (Path(folder) / f"replica-{number}.json").write_text(json.dumps(report), encoding="utf-8")


def measure(
    directory: Path, machines: int = 2, replicas: int = 4, throttle: float = 400.0, repeats: int = 3
) -> dict[str, Any]:
    """Seconds until all replicas have their weights, each alone, together, and with one machine killed; and bars.

    `throttle` is in MiB/s for all together. Raises `CollectiveError` if a replica fails.
    """
    files = sorted(directory.glob("*.safetensors"))
    wanted = {file.name: _digest(file) for file in files}
    rounds: list[dict[str, Any]] = []
    for _ in range(repeats):
        sides: dict[str, Any] = {}
        for name, together in (("alone", False), ("together", True)):
            rows = _run(Job(str(directory), machines, throttle * MIB, together), replicas)
            sides[name] = _seconds(rows)
            sides[f"{name}_exact"] = all(row["digests"] == wanted for row in rows)
            sides[f"{name}_ways"] = sorted(row["way"] for row in rows)
        rounds.append({**sides, "reason": rows[0]["reason"], "read": sorted(row["read"] for row in rows)})
    killed = _run(Job(str(directory), machines, throttle * MIB, True, fatal=machines - 1), replicas)
    late = _run(Job(str(directory), machines, throttle * MIB, True, late=True), 1)
    best = {name: min(each[name] for each in rounds) for name in ("alone", "together")}
    hot = measure_hot(directory)
    left = len(killed)
    plain_after = left * sum(file.stat().st_size for file in files) / (throttle * MIB)
    measured = {
        "times": best["alone"] / best["together"],
        "killed_more_seconds": _seconds(killed) - plain_after,
        "hot_to_plain": hot["product"] / hot["plain"],
    }
    return {
        "directory": directory.name,
        "mib": sum(file.stat().st_size for file in files) // MIB,
        "machines": machines,
        "replicas": replicas,
        "throttle_mib_per_second": throttle,
        "seconds": {**best, "killed": _seconds(killed), "late": _seconds(late)},
        "hot_seconds": hot,
        "bars": {name: {"bar": _BARS[name], "measured": round(value, 3)} for name, value in measured.items()},
        "exact": all(each["alone_exact"] and each["together_exact"] for each in rounds)
        and all(row["digests"] == wanted for row in (*killed, *late)),
        "killed": [{"way": row["way"], "reason": row["reason"]} for row in killed],
        "late": late[0]["way"],
        "rounds": rounds,
    }


def measure_hot(directory: Path, rounds: int = _HOT_ROUNDS) -> dict[str, float]:
    """Best seconds of reading weights from the page cache: plainly, and as a machine of a cluster does.

    Raises `CollectiveError` if the page cache does not hold them.
    """
    files = sorted(directory.glob("*.safetensors"))
    _read_all(FilesSource(files))
    seconds: dict[str, list[float]] = {"plain": [], "product": []}
    with tempfile.TemporaryDirectory(prefix="symmoe-replicas-", dir=_memory()) as folder:
        staging = Staging(Place("hot", HOST, Path(folder)), _Table(None, 2, late=True), lambda: 1 << 40)
        for _ in range(rounds):
            for name, times in seconds.items():
                began = time.perf_counter()
                if name == "product" and (staged := staging.stage(directory)).reason != HOT:
                    raise CollectiveError(f"the page cache does not hold {directory.name}: {staged.reason}")
                _read_all(FilesSource(files))
                times.append(time.perf_counter() - began)
        staging.close()
    return {name: min(times) for name, times in seconds.items()}


def _run(job: Job, replicas: int) -> list[dict[str, Any]]:
    """Run replicas, on the machines in turn. Returns what each wrote, without those killed."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory(prefix="symmoe-replicas-", dir=_memory()) as folder:
        store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        context = get_context("forkserver")
        context.set_forkserver_preload(["torch", run_replica.__module__])
        machines = [number % job.machines for number in range(replicas)]
        processes = [
            context.Process(target=run_replica, args=(folder, store.port, number, machine, job), daemon=True)
            for number, machine in enumerate(machines)
        ]
        for process in processes:
            process.start()
        if job.fatal is None and not job.late:
            store.wait([f"done/{number}" for number in range(replicas)])
            store.set("over", "")
        for process in processes:
            process.join(_LONGEST_SECONDS)
        failed = [n for n, process in enumerate(processes) if process.exitcode != 0 and machines[n] != job.fatal]
        if failed:
            raise CollectiveError(f"replica {failed[0]} of the benchmark ended with {processes[failed[0]].exitcode}")
        rows = (Path(folder) / f"replica-{number}.json" for number in range(replicas))
        return [json.loads(row.read_text(encoding="utf-8")) for row in rows if row.exists()]


def _seconds(rows: Sequence[dict[str, Any]]) -> float:
    return float(max(row["ended"] for row in rows) - min(row["began"] for row in rows))


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


def _chunks(files: Sequence[Path]) -> int:
    source = FilesSource(files)
    try:
        return len(source.sizes)
    finally:
        source.close()


def _read_all(source: FilesSource) -> None:
    buffer = memoryview(bytearray(max(source.sizes)))
    for chunk, size in enumerate(source.sizes):
        source.read(chunk, buffer[:size])
    source.close()


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(8 * MIB):
            digest.update(data)
    return digest.hexdigest()
