"""A large batch, in a service process and a store as they are in use."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.batches.conftest import ended, exactly_once, line, start
from tests.deployments.batches.test_faults import asked, process
from tests.stores import connected


@dataclass(frozen=True)
class Measured:
    """Seconds from the upload to the end; the most memory of the service, before and after, and of the store (MiB)."""

    seconds: float
    before: float
    peak: float
    store: float


def peak(pid: int) -> float:
    """The largest resident memory that a process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(folder: Path, count: int, seconds: float) -> Measured:
    """A batch of so many lines by the official client; each is asked and answered once, in the order of the input."""
    with process(folder, 0.0) as service:
        exactly_once(service.client, ended(service.client, start(service.client, [line(0)])), 1)
        before, began = peak(service.pid), time.monotonic()
        over = ended(service.client, start(service.client, [line(n) for n in range(count)]), seconds)
        took = time.monotonic() - began
        exactly_once(service.client, over, count)
        assert connected().keys("symmoe:batch:*:lines") == []
        assert set(Counter(asked(folder)[1:]).values()) == {1}
        assert len(asked(folder)) == count + 1
        store = connected().info("memory")["used_memory_peak"] / (1 << 20)
        return Measured(took, before, peak(service.pid), store)


@pytest.mark.slow
def test_fifty_thousand_lines_are_each_asked_and_answered_once_in_little_memory(state: Path, tmp_path: Path) -> None:
    """In 34 s, 25 MiB of the service and 28 MiB of the store on two cores."""
    found = measured(tmp_path, Settings().most_batch_lines, 600)
    assert found.peak - found.before < 64, found
    assert found.store < 96, found
