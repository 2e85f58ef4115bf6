"""Reading ahead: storage is kept busy while chunks are passed on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from symmoe.loading.collectives.landing import Landing
from symmoe.loading.collectives.source import ChunkSource

if TYPE_CHECKING:
    import torch

AHEAD = 2
"""Chunks that are read before they are asked for: while one waits to be passed on, the next is on its way."""


class ReadAhead:
    """Reads the chunks of a rank in their order, in a thread of its own, at most `AHEAD` before they are taken."""

    def __init__(self, chunks: Sequence[int], source: ChunkSource, landing: Landing) -> None:
        self._chunks, self._source, self._landing = chunks, source, landing
        self._room = threading.Semaphore(AHEAD)
        self._done: queue.SimpleQueue[torch.Tensor | BaseException] = queue.SimpleQueue()
        self._stopped = False

    @contextmanager
    def running(self) -> Iterator[ReadAhead]:
        """Read as long as the block lasts. A read under way is waited for: it writes into memory that others own."""
        thread = threading.Thread(target=self._run, name="gather_read", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped = True
            self._room.release()
            thread.join()

    def take(self) -> torch.Tensor:
        """The next chunk in host memory; raises what reading it raised."""
        done = self._done.get()
        if isinstance(done, BaseException):
            raise done
        self._room.release()
        return done

    def _run(self) -> None:
        for chunk in self._chunks:
            self._room.acquire()
            if self._stopped:
                return
            try:
                host = self._landing.buffer(chunk)
                self._source.read(chunk, host.numpy().data)
            except BaseException as error:
                self._done.put(error)
                return
            self._done.put(host)
