"""Another user of this machine plants links and files where the service keeps its own, and looks into them."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from symmoe.deployments.private_folder import MARK, check_private, private_folder, sweep
from symmoe.deployments.session import ray_session

from symmoe.errors import JobError
from symmoe.limits import RAY_FOLDER_BYTES

NOBODY = 65534
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can act as another user, with setpriv"
)


def as_nobody(*words: object) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files as /tmp is one: everybody's, and sticky. Its path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def killed_run(shared: Path) -> Path:
    """The folder of a run that was killed."""
    code = f"""
import os, signal, tempfile
tempfile.tempdir = {str(shared)!r}
from symmoe.deployments.private_folder import private_folder
with private_folder() as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").touch()
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Path(done.stdout.strip())


@as_root
def test_nobody_else_passes_through_the_folder_of_a_run_whatever_is_opened_inside(shared: Path) -> None:
    with private_folder() as folder:
        inside = folder / "r"
        inside.mkdir()
        inside.chmod(0o777)  # as Ray leaves it
        (inside / "log").write_text("asked: ...")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert as_nobody("ln", "-s", "/etc/shadow", inside / "planted").returncode != 0
        assert as_nobody("cat", inside / "log").returncode != 0
        assert as_nobody("mv", folder, shared / "away").returncode != 0
    assert list(shared.iterdir()) == []


def test_what_a_killed_run_left_is_gone_after_the_next_start_and_what_lives_stays(shared: Path) -> None:
    with private_folder() as living:
        left = killed_run(shared)
        assert left.is_dir()
        with private_folder():
            assert not left.exists()
            assert living.is_dir()


@as_root
def test_links_and_folders_of_others_under_the_same_name_are_left_alone(shared: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "alive").touch()
    (shared / "symmoe-run-linked00").symlink_to(precious)
    foreign = shared / "symmoe-run-foreign0"
    foreign.mkdir()
    (foreign / "alive").touch()
    os.chown(foreign, NOBODY, NOBODY)
    lured = shared / "symmoe-run-lured000"
    lured.mkdir(mode=0o700)
    (lured / "alive").symlink_to(precious / "alive")
    sweep(shared)
    assert (precious / "deep").is_dir()
    assert (precious / "alive").exists()
    assert foreign.is_dir()


def test_links_in_a_dead_folder_are_removed_and_not_followed(shared: Path, tmp_path: Path) -> None:
    left, precious = killed_run(shared), tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (left / "deep" / "link").symlink_to(precious)
    (left / "link").symlink_to(precious)
    sweep(shared)
    assert not left.exists()
    assert (precious / "file").exists()


def test_processes_of_a_killed_run_end_with_its_folder_and_nobody_elses(shared: Path) -> None:
    left = killed_run(shared)
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    marked = {**os.environ, MARK: str(left)}
    output, titled = left / "deep" / "worker.out", ["ray::IDLE", *words[1:]]
    with output.open("wb") as sink:
        worker = subprocess.Popen(titled, executable=sys.executable, stdout=sink)
    other = subprocess.Popen(titled, executable=sys.executable)  # of another run
    agent = subprocess.Popen([*words, f"--session-dir={left}/r/session"], env=marked)
    store = subprocess.Popen(words, env=marked)  # which serves others too
    reader = subprocess.Popen([*words, f"{left}/r/session/logs/raylet.err"])
    try:
        sweep(shared)
        agent.wait(20)
        worker.wait(20)
        assert other.poll() is None
        assert store.poll() is None
        assert reader.poll() is None
    finally:
        for process in (agent, worker, other, store, reader):
            process.kill()
            process.wait(20)


def test_where_others_could_swap_the_folder_it_is_not_made(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = shared / "loose"
    (loose / "mine").mkdir(parents=True)
    loose.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(loose / "mine"))
    with private_folder() as folder:  # elsewhere
        assert not folder.is_relative_to(loose)
    monkeypatch.setattr("symmoe.deployments.private_folder.others_can_move", lambda folder: True)
    with pytest.raises(JobError, match="others can move what lies in it") as raised, private_folder():
        pass
    assert "TMPDIR" in str(raised.value.hint)


def test_a_path_too_long_for_rays_sockets_is_not_taken(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = shared / ("x" * 60)
    long.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with private_folder(RAY_FOLDER_BYTES) as folder:
        assert len(os.fsencode(folder)) <= RAY_FOLDER_BYTES
        socket = folder / "r" / "session_2026-11-28_04-00-42_483018_4194304" / "sockets" / "plasma_store"
        assert len(os.fsencode(socket)) <= 107


def test_a_folder_that_was_opened_since_is_noticed(shared: Path) -> None:
    with private_folder() as folder:
        check_private(folder)
        folder.chmod(0o711)
        with pytest.raises(JobError, match="other users can enter it"):
            check_private(folder)


@as_root
@pytest.mark.slow
def test_no_file_of_a_running_ray_can_be_reached_by_another_user(shared: Path) -> None:
    """Links planted in its folder for logs had root write to files that only root may write to."""
    with ray_session(1):
        made = [path for path in shared.rglob("*") if not path.is_symlink()]
        assert any(path.name == "logs" for path in made)
        for folder in (path for path in made if path.is_dir()):
            assert as_nobody("ln", "-s", "/etc/shadow", folder / "planted").returncode != 0, folder
            assert as_nobody("ls", folder).returncode != 0, folder
        memory = list(Path("/dev/shm").glob("plasma*"))  # noqa: S108
        assert memory == []  # the store of objects has no name: its file is unlinked as soon as it is open
    assert list(shared.iterdir()) == []
