"""A line of JSON about every request; and lines of other processes of this machine, written where this one writes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from queue import Full, Queue
from threading import Thread
from typing import Any, TextIO

from symmoe.errors import ConfigError

from ..private_folder import private_folder

NAME = "symmoe.requests"
_MOST_LINES = 10_000


class RequestLog:
    """Writes lines to a file, which may be moved away, or to the standard error; in a thread, so that nobody waits.

    Where the lines are written too slowly, more than ten thousand that wait are lost and counted in `lost`.
    """

    def __init__(self, file: str | None) -> None:
        from pythonjsonlogger.json import JsonFormatter

        try:
            target = logging.StreamHandler(sys.stderr) if file is None else WatchedFileHandler(file, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{file}: cannot be written ({error.strerror})", hint="name another log file") from error
        target.setFormatter(JsonFormatter("%(levelname)s", rename_fields={"levelname": "level"}, timestamp="time"))
        self._logger = logging.Logger(NAME, logging.INFO)  # its own: two services in one process are two logs
        self._queue: Queue[Any] = Queue(_MOST_LINES)
        self._dropping = _Dropping(self._queue)
        self._logger.addHandler(self._dropping)
        self._listener = QueueListener(self._queue, target)
        self._target = target
        self._listener.start()

    @property
    def lost(self) -> int:
        """How many lines were lost."""
        return self._dropping.lost

    def write(self, facts: dict[str, Any]) -> None:
        """Write a line of these facts, in a thread of its own."""
        self._logger.info(facts)

    def close(self) -> None:
        """Write the lines that wait, and close the file."""
        self._listener.stop()
        self._target.close()


class _Dropping(QueueHandler):
    """Loses what there is no room for."""

    lost = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is: nothing leaves the process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put it into the queue."""
        try:
            self.queue.put_nowait(record)
        except Full:
            self.lost += 1


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
