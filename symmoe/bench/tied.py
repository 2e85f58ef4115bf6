"""Python processes that end with the thread that started them, however that ends, `kill -9` included."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tied(words: Sequence[str]) -> list[str]:
    """The command that runs Python with these arguments until this thread is gone; it is told so by SIGTERM.

    Linux alone does this; elsewhere the process is like any other.
    """
    return [sys.executable, "-m", __name__, str(os.getpid()), *words]


def _tie(parent: int) -> None:
    """Have the kernel end this process with `parent`. It is kept by `exec`, and not passed on to children."""
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it was gone before
        sys.exit(1)


if __name__ == "__main__":
    _tie(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])  # noqa: S606  # there is no shell to want
