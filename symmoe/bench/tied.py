"""Python processes that end with the thread that started them, even if that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tied(words: Sequence[str]) -> list[str]:
    """A command that runs Python with the arguments `words`, and gets SIGTERM when the current thread ends.

    Only on Linux; elsewhere it is an ordinary process.
    """
    return [sys.executable, "-P", "-m", __name__, str(os.getpid()), *words]


def _tie(parent: int) -> None:
    """Have the kernel terminate this process with `parent`; this survives `exec` and is not inherited by children."""
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # the parent has ended already
        sys.exit(1)


if __name__ == "__main__":
    _tie(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])  # noqa: S606  # there is no shell to want
