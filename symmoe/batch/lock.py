"""One process at a time on one job."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from symmoe.config import state_dir
from symmoe.errors import JobError
from symmoe.private import private_folder, private_opener


@contextmanager
def job_lock(name: str) -> Iterator[None]:
    """Hold the job of that name; `JobError` at once if another process on this machine holds it.

    The kernel frees it the moment its holder dies, `kill -9` included, so a resume never waits for a lease to end.
    """
    private_folder(state_dir())
    folder = private_folder(state_dir() / "jobs")
    with open(folder / f"{name}.lock", "w", opener=private_opener) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JobError(
                "another process is working on this output", hint="wait for it, or stop it and use --resume"
            ) from error
        yield
