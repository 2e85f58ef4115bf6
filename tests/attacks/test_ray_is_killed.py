"""Parts of a running service are killed: nothing stands there without a word, and nothing is left for long."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from symmoe.deployments.private_folder import sweep

from symmoe.bench.services import free_port
from tests.conftest import echo_pool
from tests.deployments.conftest import gone
from tests.stores import own_state

ROOT = Path(__file__).parents[2]
WORDS = "Ray on this machine has ended: its raylet was killed or failed"


def under_watch(tmp_path: Path, then: str) -> subprocess.CompletedProcess[str]:
    """A process whose raylet, which only sleeps, is killed; what it does `then`."""
    shutil.copy("/bin/sleep", tmp_path / "raylet")
    code = f"""
import signal, subprocess, threading
from symmoe.deployments.session import RayletWatch
from symmoe.errors import EngineError
raylet = subprocess.Popen([{str(tmp_path / "raylet")!r}, "60"])
watch = RayletWatch()
watch.begin()
{then}
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_who_waits_is_told(tmp_path: Path) -> None:
    wait = "    raylet.kill()\n    threading.Event().wait(50)\n"  # within `try`: word may come at once
    then = f"try:\n{wait}except EngineError as error:\n    print(error)\nwatch.end()"
    done = under_watch(tmp_path, then)
    assert (done.returncode, done.stdout.strip()) == (0, WORDS), done.stderr


def test_who_cannot_be_woken_ends_with_the_same_words(tmp_path: Path) -> None:
    then = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\nraylet.kill()\nthreading.Event().wait(50)"
    done = under_watch(tmp_path, then)
    assert done.returncode == 1
    assert f"error: {WORDS}\n hint: " in done.stderr


def test_an_end_that_was_meant_is_none(tmp_path: Path) -> None:
    done = under_watch(tmp_path, "watch.expect_end()\nraylet.kill()\nraylet.wait()\nwatch.end()\nprint('well')")
    assert (done.returncode, done.stdout.strip()) == (0, "well"), done.stderr


@contextmanager
def service(tmp_path: Path) -> Iterator[tuple[psutil.Popen, Path]]:
    """A service that is ready, and the folder that it has for temporary files."""
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    words = ["serve", "--pool", str(echo_pool(tmp_path)), "--port", str(free_port()), "--json"]
    command = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    pipe = subprocess.PIPE
    with ExitStack() as ends:
        ends.callback(shutil.rmtree, temporary)
        ends.callback(sweep, temporary)
        ends.enter_context(own_state(tmp_path, cache=False))
        told = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        told["TMPDIR"] = str(temporary)
        with psutil.Popen(command, cwd=ROOT, env=told, stdout=pipe, stderr=pipe, text=True) as process:
            assert "{" in process.stdout.readline(), process.stderr.read()
            try:
                yield process, temporary
            finally:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.mark.slow
def test_a_service_ends_with_a_word_when_ray_dies(tmp_path: Path) -> None:
    with service(tmp_path) as (process, temporary):
        started = process.children(recursive=True)
        (killed,) = [each for each in started if each.name() == "raylet"]
        killed.kill()
        _, said = process.communicate(timeout=150)
        assert process.returncode == 1
        assert WORDS in said
        sweep(temporary)
        assert gone(started)
        assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_the_next_start_ends_and_removes_what_a_killed_service_left(tmp_path: Path) -> None:
    with service(tmp_path) as (process, temporary):
        started = process.children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert list(temporary.glob("symmoe-run-*"))
        sweep(temporary)
        assert gone(started)
        assert not list(temporary.glob("symmoe-run-*"))
