"""What several attacks on the store share: how many servers live on a state directory, and a disk that can be full."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import state as state


def servers(state: Path) -> list[psutil.Process]:
    """The Valkey servers that live on a state directory, without the children that write a file anew for them."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.name().startswith("valkey") and Path(process.cwd()) == state.resolve()
            if ours and process.status() != psutil.STATUS_ZOMBIE and "rewrite" not in process.name():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
    numbers = {process.pid for process in found}
    return [process for process in found if process.ppid() not in numbers]


def eventually(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory on a file system of 48 MB of its own."""
    from symmoe.store import embedded_socket

    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", disk]).returncode:
        pytest.skip("a file system cannot be mounted here")
    state = disk / "state"
    monkeypatch.setenv("SYMMOE_STATE", str(state))
    monkeypatch.delenv("REDIS_URL", raising=False)
    try:
        yield state
    finally:
        for server in servers(state):
            server.kill()
        eventually(lambda: not servers(state))
        if embedded_socket().parent != state:
            embedded_socket().unlink(missing_ok=True)
            embedded_socket().parent.rmdir()
        subprocess.run(["umount", "-l", disk], check=True)
