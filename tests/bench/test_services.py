from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from symmoe.bench.clients import Ask, closed, crowd
from symmoe.bench.machine import resident
from symmoe.bench.services import symmoe_serve
from symmoe.bench.tied import tied
from symmoe.errors import EngineError
from tests.conftest import echo_pool
from tests.deployments.conftest import gone


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_symmoe_is_started_as_anybody_would_and_leaves_no_process(tmp_path: Path) -> None:
    pool = echo_pool(tmp_path / "pool", ("adder", "sorter"))
    with symmoe_serve(str(pool)) as side:
        (outcome,) = crowd(side.url, closed([Ask("sorter", "sums 1", 8, stream=True)], 1))
        started = psutil.Process(side.pid).children(recursive=True)
        assert any("ingress" in name for name in resident(side.pid))
    assert outcome.text == "sorter: sums 1"
    assert gone(started)


@pytest.mark.usefixtures("state")
def test_a_service_that_does_not_start_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"none\.yaml: no such pool file"), symmoe_serve(str(tmp_path / "none.yaml")):
        pass


@pytest.mark.parametrize("module", ["services", "clients", "loading"])
def test_what_is_run_as_a_process_of_its_own_can_be(module: str) -> None:
    command = [sys.executable, "-m", f"symmoe.bench.{module}", *(["{}"] if module == "services" else [])]
    done = subprocess.run(command, input="{}", capture_output=True, text=True)
    assert done.returncode == 1
    assert "KeyError" in done.stderr or "missing 5 required positional arguments" in done.stderr


STARTS = """
import subprocess, sys
from symmoe.bench.tied import tied
child = subprocess.Popen(tied(["-c", "import time; print('up', flush=True); time.sleep(600)"]), start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
SERVES = """
import sys
from symmoe.bench.services import symmoe_serve
with symmoe_serve(sys.argv[1]) as side:
    print(side.pid, flush=True)
    sys.stdin.read()
"""


def killed(code: str, *words: str, lines: int = 1) -> list[psutil.Process]:
    """What a process had started that was killed after so many lines of its output, the first being a number."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        said = [parent.stdout.readline().strip() for _ in range(lines)]
        child = psutil.Process(int(next(line for line in said if line.isdecimal())))
        started = [child, *child.children(recursive=True)]
        parent.kill()
    return started


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child of its parent's death")
def test_a_process_ends_with_one_that_is_killed() -> None:
    started = killed(STARTS, lines=2)
    assert len(started) == 1
    assert gone(started)


def test_input_arguments_and_exit_code_go_through() -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.exit(7)"
    done = subprocess.run(tied(["-c", code, "--part", "a b"]), input="given", capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("['--part', 'a b'] given\n", 7)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child of its parent's death")
def test_a_process_whose_parent_is_gone_already_does_not_begin() -> None:
    command = tied(["-c", "print('begun')"])
    command[3] = "1"
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("state")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child of its parent's death")
def test_a_service_of_a_benchmark_that_is_killed_ends_with_everything_that_it_started(tmp_path: Path) -> None:
    started = killed(SERVES, str(echo_pool(tmp_path / "pool", ("adder", "sorter"))))
    assert len(started) > 5
    assert gone(started, 60)
