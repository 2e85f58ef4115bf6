"""What processes take of the machine: cores and memory."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symmoe.errors import EngineError

if TYPE_CHECKING:
    import psutil

GROWTH_WINDOW = 0.1
"""The share of the samples, at either end, of which the median counts."""


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything that it started and that still runs."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: Sequence[int]) -> float:
    """The CPU time of these processes and everything under them so far, in seconds of one core."""
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
    """How long the cores of this machine have been busy since it started, for whomever, in seconds of one core."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


@dataclass(slots=True)
class Taken:
    """Cores that were taken meanwhile, on average: by services by their names, crowds, everybody else.

    Nobody knows of everybody else where one of the services is somebody's whose processes are not known.
    """

    own: dict[str, float] = field(default_factory=dict)
    clients: float = 0.0
    others: float | None = None

    @property
    def figures(self) -> dict[str, Any]:
        """The same for a report."""
        return {"cores_taken": {**self.own, "clients": self.clients}, "cores_taken_by_others": self.others}


@contextmanager
def taking(own: Mapping[str, Sequence[int]]) -> Iterator[Taken]:
    """Note what was taken while the block lasts, by which time the processes of crowds must be over."""
    taken, clients = Taken(), os.times()[2:4]
    began, busy = time.perf_counter(), busy_seconds()
    before = {name: cpu_seconds(pids) for name, pids in own.items()}
    yield taken
    seconds = time.perf_counter() - began
    taken.own = {name: round((cpu_seconds(pids) - before[name]) / seconds, 2) for name, pids in own.items()}
    taken.clients = round((sum(os.times()[2:4]) - sum(clients)) / seconds, 2)
    if all(own.values()):
        known = sum(taken.own.values()) + taken.clients
        taken.others = round(max(0.0, (busy_seconds() - busy) / seconds - known), 2)


class Memory:
    """Samples the resident memory of every process under `pid`, once every `every` seconds, in a thread."""

    def __init__(self, pid: int, every: float = 1.0) -> None:
        self._pid, self._every = pid, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples: list[tuple[float, dict[str, int]]] = []

    @contextmanager
    def sampled(self) -> Iterator[Memory]:
        """Sample while the block lasts."""
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
    """Resident bytes by process; a process is known by its name and number.

    Shared memory is left out: Ray's object store bounds itself, and its pages are in each process that looked at them.
    """
    import psutil

    found = {}
    for process in tree(pid):
        try:
            found[f"{_named(process)} {process.pid}"] = int(process.memory_info().rss) - _shared(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def _shared(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it ended just now, or this system has no such file
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssShmem:")), 0)


def growth(samples: Sequence[tuple[float, Mapping[str, int]]], warm_up: float) -> dict[str, Any]:
    """How resident memory grew from after the warm-up (seconds) to the end: in percent, together and by process.

    Medians of the first and the last tenth of the samples are compared, of processes that were there all along; the
    others are counted. Raises `EngineError` where nothing was sampled.
    """
    warm = [sizes for at, sizes in samples if at >= warm_up and sizes]
    if not warm:
        raise EngineError("no memory was sampled after the warm-up", hint="measure for longer")
    window = max(1, int(len(warm) * GROWTH_WINDOW))
    steady = [name for name in warm[0] if all(name in sizes for sizes in warm)]
    ever = {name for sizes in warm for name in sizes}
    ends = {name: [_median([s[name] for s in part]) for part in (warm[:window], warm[-window:])] for name in steady}
    totals = [sum(pair[end] for pair in ends.values()) for end in (0, 1)]
    processes: dict[str, dict[str, float]] = defaultdict(dict)
    for name, (first, last) in sorted(ends.items(), key=lambda item: -item[1][1]):
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
    """The part of a process's title that stays: Ray adds the method that an actor is in, `ray::Actor.method`."""
    name = title.rsplit("/", 1)[-1]
    return (name.split(".")[0] if name.startswith("ray::") else name)[:40]


def _median(values: Sequence[int]) -> float:
    ranked = sorted(values)
    middle = len(ranked) // 2
    return ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2
