"""Lines of other processes of this machine, written where this one writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TextIO

from ..private_folder import private_folder

_END = b"\0\n"


@contextmanager
def relayed(target: TextIO) -> Iterator[str]:
    """The path of a pipe whose lines appear in `target`, all of them before the block ends.

    Ray keeps what its workers print in files of its own, which go with it.
    """
    with private_folder() as folder:
        path = folder / "lines"
        os.mkfifo(path, 0o600)
        end = os.open(path, os.O_RDWR)  # writing too: so it neither waits for a writer nor ends with one
        thread = Thread(target=_relay, args=(end, target), name="lines", daemon=True)
        thread.start()
        try:
            yield str(path)
        finally:
            os.write(end, _END)
            thread.join()
            os.close(end)


def _relay(end: int, target: TextIO) -> None:
    with os.fdopen(os.dup(end), "rb") as lines:
        for line in lines:
            if line == _END:
                return
            target.write(line.decode(errors="replace"))
            target.flush()
