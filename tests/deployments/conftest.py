"""One Ray for all tests of this folder, and experts to run on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from symmoe.deployments.executor import RayExecutor
from symmoe.deployments.session import ray_session

from symmoe.config import read_pool
from tests.cli.conftest import symmoe_command as symmoe_command
from tests.conftest import echo_pool
from tests.deployments.trouble import troubled
from tests.stores import own_state

EXPERTS = ("adder", "speaker", "sorter", "broken", "lethal")
WORKERS = 2


@pytest.fixture(scope="package")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray with room for two workers and a store of its own; when it has ended, no process of it is left."""
    before = set(psutil.Process().children(recursive=True))
    with own_state(tmp_path_factory.mktemp("ray"), cache=False), ExitStack() as stack:
        _start_ray(stack)
        started = set(psutil.Process().children(recursive=True)) - before
        yield
    assert gone(started, 180)  # its agents look whether it lives, slowly where all are busy


def _start_ray(stack: ExitStack) -> None:
    for left in (2, 1, 0):
        try:
            stack.enter_context(ray_session(WORKERS))
            return
        except Exception as error:  # Ray gives its own node 30 s, whatever is set: too little on a busy machine
            if not left or "timed out during startup" not in str(error):
                raise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the pool file, where workers keep their records."""
    return tmp_path


@pytest.fixture
def executor(ray_here: None, folder: Path) -> Iterator[RayExecutor]:
    pool = read_pool(str(echo_pool(folder, EXPERTS)))
    with RayExecutor(pool, WORKERS, build=troubled) as executor:
        yield executor


def gone(processes: set[psutil.Process] | Sequence[psutil.Process], seconds: float = 60) -> bool:
    """Whether the processes have ended, or do within so many seconds."""
    _, alive = psutil.wait_procs(list(processes), timeout=seconds)
    return not [process for process in alive if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], object], process: psutil.Popen) -> None:
    """Wait while a process goes on until something holds."""
    while not condition():
        try:
            process.wait(0.02)
        except psutil.TimeoutExpired:
            continue
        pytest.fail("the process ended too early")
