"""Noticing that Ray itself has died under a command, which Ray does not tell."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from symmoe.errors import EngineError

_SIGNAL = signal.SIGUSR1
"""Wakes the main thread out of whatever it waits for; nothing else here uses it."""
_MESSAGE = "Ray on this machine has ended: its raylet was killed or failed"
_HINT = "memory may have run out (see dmesg); start again: what was answered is kept"
_PATIENCE = 5.0
"""Seconds in which the main thread should have ended: Ray may wait half a minute for a raylet that is gone."""


class RayletWatch:
    """Raises `EngineError` in the main thread when the raylet that this process has started ends unasked.

    Without it a service would stand there with nothing behind it. Where Ray holds the main thread, the process ends
    after five seconds more, with the same words. Begun in another thread it watches nothing: only the main one can be
    woken.
    """

    def __init__(self) -> None:
        self._wanted, self._over = threading.Event(), threading.Event()
        self._before: Any = None

    def begin(self) -> None:
        """Watch the raylet, which runs by now."""
        raylet = _raylet()
        if raylet is None or threading.current_thread() is not threading.main_thread():
            return
        self._before = signal.signal(_SIGNAL, self._woken)
        threading.Thread(target=self._watch, args=(raylet,), name="raylet", daemon=True).start()

    def expect_end(self) -> None:
        """From now on the raylet may end."""
        self._wanted.set()

    def end(self) -> None:
        """Everything is over, and nobody waits any more."""
        self._over.set()
        if self._before is not None:
            signal.signal(_SIGNAL, self._before)

    def _woken(self, number: int, frame: object) -> None:
        raise EngineError(_MESSAGE, hint=_HINT)

    def _watch(self, raylet: Any) -> None:
        raylet.wait()
        if self._wanted.is_set():
            return
        signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
        if not self._over.wait(_PATIENCE):
            os.write(2, f"error: {_MESSAGE}\n hint: {_HINT}\n".encode())
            os._exit(EngineError.exit_code)


def _raylet() -> Any:
    import psutil

    own = psutil.Process(os.getpid()).children()
    return next((process for process in own if process.name() == "raylet"), None)
