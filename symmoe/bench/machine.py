"""Cores and memory that processes use, and a store of their own."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from symmoe.errors import EngineError
from symmoe.store.embedded import stop_embedded

if TYPE_CHECKING:
    import psutil

GROWTH_WINDOW = 0.1
"""The share of the samples, at either end, whose medians are compared."""


@contextmanager
def own_state() -> Iterator[Mapping[str, str]]:
    """An environment with an embedded store in a state directory of its own; both go when the block ends."""
    with TemporaryDirectory(prefix="symmoe-") as folder:
        environment = {"SYMMOE_STATE": os.path.join(folder, "state"), "REDIS_URL": ""}
        try:
            yield environment
        finally:
            with in_environment(environment):
                stop_embedded()


@contextmanager
def in_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Set these variables while the block runs."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def tree(pid: int) -> list[psutil.Process]:
    """A process and its running descendants; empty if it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time of these processes and their descendants, in seconds of one core."""
    import psutil

    total = 0.0
    for process in (process for pid in pids for process in tree(pid)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def busy_seconds() -> float:
    """CPU time of all processes since the machine started, in seconds of one core."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


@dataclass(slots=True)
class CoresInUse:
    """Mean cores in use over a period: by each service, by clients, and by all other processes.

    `others` is None if the processes of a service are not known.
    """

    own: dict[str, float] = field(default_factory=dict)
    clients: float = 0.0
    others: float | None = None

    @property
    def figures(self) -> dict[str, Any]:
        """The fields for a report."""
        return {"cores_taken": {**self.own, "clients": self.clients}, "cores_taken_by_others": self.others}


@contextmanager
def cores_in_use(own: Mapping[str, Sequence[int]]) -> Iterator[CoresInUse]:
    """Measure the cores in use while the block runs; processes of clients must have ended with it.

    `own` gives the process ids of each service by its name; the value yielded is filled when the block ends.
    """
    in_use, clients = CoresInUse(), os.times()[2:4]
    began, busy = time.perf_counter(), busy_seconds()
    before = {name: cpu_seconds(pids) for name, pids in own.items()}
    yield in_use
    seconds = time.perf_counter() - began
    in_use.own = {name: round((cpu_seconds(pids) - before[name]) / seconds, 2) for name, pids in own.items()}
    in_use.clients = round((sum(os.times()[2:4]) - sum(clients)) / seconds, 2)
    if all(own.values()):
        known = sum(in_use.own.values()) + in_use.clients
        in_use.others = round(max(0.0, (busy_seconds() - busy) / seconds - known), 2)


class Memory:
    """Samples the resident memory of `pid` and its descendants every `every` seconds, in a thread."""

    def __init__(self, pid: int, every: float = 1.0) -> None:
        self._pid, self._every = pid, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples: list[tuple[float, dict[str, int]]] = []

    @contextmanager
    def sampled(self) -> Iterator[Memory]:
        """Sample while the block runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join()

    def _sample(self) -> None:
        began = time.perf_counter()
        while not self._over.wait(self._every):
            self.samples.append((time.perf_counter() - began, resident(self._pid)))


def resident(pid: int) -> dict[str, int]:
    """Resident bytes of `pid` and its descendants, by name and process id.

    Shared memory is left out: Ray's object store bounds itself, and its pages count in every process that read them.
    """
    import psutil

    found = {}
    for process in tree(pid):
        try:
            shared = _status(str(process.pid), "RssShmem")
            found[f"{_named(process)} {process.pid}"] = int(process.memory_info().rss) - shared
        except psutil.NoSuchProcess:
            continue
    return found


def peak_mib() -> float:
    """The most resident memory of this process so far, in MiB.

    Where /proc tells it: getrusage begins with the peak of the process that started this one.
    """
    peak = _status("self", "VmHWM")
    if not peak:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return round(peak / 2**20, 1)


def _status(process: str, field: str) -> int:
    """Bytes of a kind of memory of a process; 0 if it has ended, or this system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")), 0)


def growth(samples: Sequence[tuple[float, Mapping[str, int]]], warm_up: float) -> dict[str, Any]:
    """Growth of resident memory from the end of the warm-up (seconds) to the last sample: in percent, and by process.

    Compares the medians of the first and the last tenth of the samples, over processes that are in all of them; the
    others are only counted. Raises `EngineError` if there are no samples after the warm-up.
    """
    warm = [sizes for at, sizes in samples if at >= warm_up and sizes]
    if not warm:
        raise EngineError("no memory was sampled after the warm-up", hint="measure for longer")
    window = max(1, int(len(warm) * GROWTH_WINDOW))
    steady = [name for name in warm[0] if all(name in sizes for sizes in warm)]
    ever = {name for sizes in warm for name in sizes}
    medians = {name: [median([s[name] for s in part]) for part in (warm[:window], warm[-window:])] for name in steady}
    totals = [sum(pair[end] for pair in medians.values()) for end in (0, 1)]
    processes: dict[str, dict[str, float]] = defaultdict(dict)
    for name, (first, last) in sorted(medians.items(), key=lambda item: -item[1][1]):
        processes[name] = {"mib": round(last / 2**20, 1), "grown_mib": round((last - first) / 2**20, 2)}
    return {
        "mib": round(totals[1] / 2**20, 1),
        "growth_percent": round(100 * (totals[1] / totals[0] - 1), 3),
        "samples": len(warm),
        "came_and_went": len(ever) - len(steady),
        "processes": dict(processes),
    }


def _named(process: psutil.Process) -> str:
    words = process.cmdline()
    return steady_name(words[0] if words else process.name())


def steady_name(title: str) -> str:
    """A process title without what changes: Ray appends the running method, `ray::Actor.method`."""
    name = title.rsplit("/", 1)[-1]
    return (name.split(".")[0] if name.startswith("ray::") else name)[:40]
