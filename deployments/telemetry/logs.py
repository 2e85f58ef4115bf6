"""A line of JSON about every request."""

from __future__ import annotations

import logging
import sys
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from queue import Full, Queue
from typing import Any

from symmoe.errors import ConfigError

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
        handler = _Dropping(self._queue)
        self._logger.addHandler(handler)
        self._dropping = handler
        self._listener = QueueListener(self._queue, target)
        self._target = target
        self._listener.start()

    @property
    def lost(self) -> int:
        """How many lines were."""
        return self._dropping.lost

    def write(self, facts: dict[str, Any]) -> None:
        """One line."""
        self._logger.info(facts)

    def close(self) -> None:
        """Write what is left."""
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
