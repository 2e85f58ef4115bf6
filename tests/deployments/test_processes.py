"""The command with workers, in processes of its own, ended without warning."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import echo_pool
from tests.deployments.conftest import gone, wait_until
from tests.deployments.trouble import asked, pids

ROOT = Path(__file__).parents[2]
PROMPTS = ["sums wait", *(f"sums {number}" for number in range(20))]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("state")]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t"))
    yield folder
    shutil.rmtree(folder)


def start(*words: object, temporary: Path) -> psutil.Popen:
    """Start `symmoe WORDS` with workers that do what the prompts say, as a terminal would: in a process group."""
    command = [sys.executable, "-m", "tests.deployments.trouble", *map(str, words)]
    env = {**os.environ, "TMPDIR": str(temporary)}
    pipe = subprocess.PIPE
    return psutil.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True)


def batch(folder: Path) -> list[object]:
    rows = [json.dumps({"id": prompt, "prompt": prompt}) for prompt in PROMPTS]
    (folder / "in.jsonl").write_text("\n".join(rows), encoding="utf-8")
    pool = echo_pool(folder)
    return ["batch", "run", folder / "in.jsonl", "-o", folder / "out.jsonl", "--pool", pool, "--k", 1, "--workers", 2]


def until_all_but_one_are_answered(folder: Path, process: psutil.Popen) -> set[psutil.Process]:
    wait_until(lambda: asked(folder)["adder: sums wait"], process)
    return set(process.children(recursive=True))


def finished(process: psutil.Popen, folder: Path) -> None:
    (folder / "go").touch()
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert json.loads(printed)["answered"] == len(PROMPTS)
    assert [json.loads(row)["symmoe_id"] for row in (folder / "out.jsonl").read_text().splitlines()] == PROMPTS


def test_ctrl_c_ends_every_process_and_removes_every_file_and_the_hint_goes_on(folder: Path, short: Path) -> None:
    with start(*batch(folder), temporary=short) as process:
        started = until_all_but_one_are_answered(folder, process)
        os.killpg(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    assert gone(started)
    assert list(short.iterdir()) == []
    (hint,) = [line for line in said.splitlines() if "Continue with: " in line]
    _, *words = shlex.split(hint.split("Continue with: ")[1])
    with start(*words, "--json", temporary=short) as process:
        finished(process, folder)


def test_killed_it_leaves_no_worker_and_what_was_answered_is_not_asked_again(folder: Path, short: Path) -> None:
    with start(*batch(folder), temporary=short) as process:
        started = until_all_but_one_are_answered(folder, process)
        workers = {child for child in started if child.pid in pids(folder)}
        assert workers
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert gone(workers)
        for agent in started - workers:  # two of Ray's own look for their dead parents for a minute
            with suppress(psutil.NoSuchProcess):
                agent.kill()
        assert gone(started)
    with start(*batch(folder), "--resume", "--json", temporary=short) as process:
        finished(process, folder)
    again = asked(folder) - Counter(f"adder: {prompt}" for prompt in PROMPTS)
    assert again["adder: sums wait"] == 1


def test_with_an_address_it_works_on_that_cluster_and_leaves_it_running(
    ray_here: None, folder: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    with start(*batch(folder), "--json", temporary=short) as process:
        until_all_but_one_are_answered(folder, process)
        parents = {psutil.Process(pid).parent() for pid in pids(folder)}
        assert parents <= set(psutil.Process().children(recursive=True))
        finished(process, folder)
    assert list(short.iterdir()) == []
    assert ray.cluster_resources()["CPU"] >= 2
